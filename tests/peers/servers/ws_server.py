"""A WebSocket server with the `websockets` library: says back what it hears, and writes down what it was asked for."""

import socket
from collections.abc import Iterator

from answers import record
from websockets.sync.server import ServerConnection, serve


def halves(message: str | bytes) -> Iterator[str | bytes]:
    yield message[: len(message) // 2]
    yield message[len(message) // 2 :]


def talk(connection: ServerConnection) -> None:
    request = connection.request
    assert request is not None
    record("GET", request.path, "HTTP/1.1", request.headers["Host"], connection.remote_address[1], is_chunked=False)
    for message in connection:
        if message == "fragments":
            connection.send(halves(message))
        elif message == "end":
            connection.close(4001, "asked to")
        else:
            connection.send(message)


with serve(talk, sock=socket.socket(fileno=3), max_size=None) as server:
    server.serve_forever()
