"""One HTTP/1.1 connection pair, client to server, judged request by request. No I/O, no clock.

The edge hands in what it read and what time it is and does what the returned commands say, in order:

    commands = conversation.client_bytes(data, now)      # or server_bytes
    if commands is FORWARD:      # usual: the whole read goes to the other side, the very object
        ...
    else:
        for command in commands: ...

Rules for the edge:
- `data` is never empty; the end of a stream is `client_eof`/`server_eof`. After Close or Abort nothing is handed in.
- While bytes (or a filled pipe) wait to be sent to one side, the other side is not read; while bytes wait for the
  client, the client is not read either (else refusals without end would grow its buffer).
- Long bodies: as long as `client_unread` is above 0, that many bytes may go from the client to the server without
  being handed in; tell `client_moved(count, now)` at once, before anything else. `server_unread`, `server_moved`
  likewise towards the client. The last byte of a message is never among them, so that it ends in one place.
- `deadline` is on the clock of `now`, infinite for none, and may move with any call: call `timer(now)` once it has
  passed. Calling it early is harmless.
- What breaks outside (a reset, a failed dial, a limit) is told by `lost(reason, now)`, so that it is logged.
"""

from racecar.parsers.errors import ProtocolError
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import (
    FORWARD,
    NOTHING,
    Abort,
    Close,
    CloseServer,
    Command,
    Commands,
    EndClient,
    EndServer,
    Forward,
    HttpConfig,
    HttpRecord,
    HttpVerdict,
    Judge,
    ResetServer,
    ToClient,
    ToServer,
    Verdict,
)
