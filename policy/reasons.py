"""Why something was refused: one numbered list, shared with the BPF programs (redirect/bpf/reasons.h).

Numbers are stored in logs and in kernel maps: never reuse one, only add.
"""

from enum import IntEnum


class Reason(IntEnum):
    """1-31 are decided in the kernel, 32-63 by the relay, 64 and above by the HTTP layer."""

    NONE = 0
    DEFAULT_DENY = 1  # no rule for this peer, protocol and port
    DENY_RULE = 2
    PROXY_ADDRESS = 3  # the workload dialled the proxy's own listener
    FAST_OPEN = 4  # data queued before the connection has state
    NO_STATE = 5  # state for the connection could not be made
    BOUND_DEVICE = 6  # a socket bound to a device cannot be redirected
    SCOPED_ADDRESS = 7  # a link-local address under a rule that needs the proxy
    RAW_SOCKET = 8
    UNKNOWN_SOCKET = 9  # a TCP packet that no TCP socket sent
    IP_OPTIONS = 10
    EXTENSION_HEADER = 11
    FRAGMENT = 12
    URGENT_DATA = 13
    STALE_POLICY = 14  # judged by an older policy and not allowed by this one
    TRANSLATED = 15  # the address after translation is under an L7 or deny rule
    NOT_REDIRECTED = 16  # a redirected socket's packet that does not go to the proxy
    MALFORMED_PACKET = 17
    PENDING_LIMIT = 18  # too many connections of the workload on their way to the proxy
    OWN_ADDRESS = 19  # the address turned out to be the host's own
    SOURCE_ADDRESS = 20  # a socket bound to a source address that cannot reach the proxy
    NO_RECORD = 32  # a connection to the proxy that no workload's socket announced
    WORKLOAD_LIMIT = 33
    DESCRIPTOR_LIMIT = 34
    DIAL_FAILED = 35
    DIAL_TIMEOUT = 36
    IDLE_TIMEOUT = 37
    HEAD_TIMEOUT = 38
    UNEXPECTED_UPSTREAM_BYTES = 39  # bytes from the server with no request outstanding
    UPSTREAM_RESET = 40
    DOWNSTREAM_RESET = 41
    UPSTREAM_CLOSED = 42  # the server ended inside a message
    DOWNSTREAM_CLOSED = 43  # the client ended inside a message
    DRAINED = 44
    INTERNAL_ERROR = 45
    NO_LAYER = 46  # nothing that can judge this rule set yet
    HTTP_NO_RULE = 64
    HTTP_MALFORMED = 65
    HTTP_HEAD_TOO_LARGE = 66
    HTTP_TARGET_TOO_LONG = 67
    HTTP_TOO_MANY_HEADERS = 68
    HTTP_PIPELINED = 69  # bytes behind the last request of a connection
    HTTP_CHUNKED_REQUEST = 70  # no longer given
    HTTP_UPGRADE = 71  # a protocol switch that no rule grants
    HTTP_CONNECT = 72  # a tunnel that no rule grants
    HTTP_NOT_HTTP = 73
    HTTP_TLS = 74
    HTTP_HTTP2 = 75
    HTTP_BODY_NOT_ALLOWED = 76  # a body on GET, HEAD or DELETE
    HTTP_PATH_ENCODING = 77  # an encoding that servers read in different ways
    HTTP_EXPECT = 78
    HTTP_RESPONSE_MALFORMED = 79
    HTTP_HOST = 80  # missing, repeated or unlike the absolute-form target
    HTTP_FRAMING = 81  # Content-Length and Transfer-Encoding that do not agree
    HTTP_DENY_RULE = 82
    HTTP_TARGET_FORM = 83
    HTTP_SECOND_OPINION = 84  # two parsers read the head in different ways
    HTTP_RESPONSE_TIMEOUT = 85  # the head of an answer that had begun did not come in time
