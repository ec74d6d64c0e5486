"""`websockets` as a client: `CLIENT URL`. Says in JSON what came of each thing that it tried."""

import hashlib
import json
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

MEGABYTE = bytes(range(256)) * 4096


def main() -> None:
    try:
        connection = connect(sys.argv[1], max_size=None)
    except InvalidStatus as refused:
        print(json.dumps({"status": refused.response.status_code}))
        return
    told: dict[str, object] = {"status": 101}
    with connection:
        connection.send("grüße")
        told["text"] = connection.recv()
        connection.send(b"\x00\xff")
        told["binary"] = connection.recv().hex()
        connection.send(iter(["in ", "three ", "parts"]))
        told["fragments sent"] = connection.recv()
        connection.send("fragments")
        told["fragments received"] = connection.recv()
        connection.send(MEGABYTE)
        told["megabyte"] = hashlib.sha256(connection.recv()).hexdigest()
        told["pong"] = connection.ping().wait(20)
        connection.send("end")
        try:
            connection.recv()
        except ConnectionClosed as closed:
            told["closed by server"] = [closed.rcvd.code, closed.rcvd.reason] if closed.rcvd else None
    with connect(sys.argv[1]) as connection:
        connection.close(4002, "enough")
        closing = connection.protocol.close_rcvd
        told["closed by client"] = [closing.code, closing.reason] if closing else None
    print(json.dumps(told))


main()
