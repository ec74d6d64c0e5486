"""The servers of the demo: a jobs service, echo services and a UDP service, each with a book of what it received.

The jobs service keeps every byte. Its book is read from them by a rule of its own, wherever a server might see the
beginning of a request: in bodies and behind them too.

They run in threads of the demo's process, outside every workload, and are what the demo's verdicts are checked against.
"""

import base64
import hashlib
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOPBACK = "127.0.0.1"
OTHER_LOOPBACK = "127.0.0.2"
_PORT_TRIES = 20
GREETING = "hello"

_REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/")
_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 4.2.2
_CLOSE = 0x88  # first byte of a last frame


class Book:
    """What one service received, in order; written by its threads."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def note(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)

    def lines(self) -> list[str]:
        with self._lock:
            return list(self._lines)


class RawBook(Book):
    """Every byte that a service of HTTP received, connection by connection."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: list[bytearray] = []

    def connection(self) -> bytearray:
        """Where the bytes of a new connection go; appended to by its thread alone."""
        with self._lock:
            self._connections.append(bytearray())
            return self._connections[-1]

    def lines(self) -> list[str]:
        """Whatever looks like a request, in order, and what was said over a WebSocket."""
        with self._lock:
            return [line for received in self._connections for line in _lines_of(bytes(received))]


def _lines_of(received: bytes) -> list[str]:
    requests = [f"{method.decode()} {path.decode()}" for method, path in _REQUEST_LINE.findall(received)]
    if received and not _REQUEST_LINE.match(received):
        requests.insert(0, f"{len(received)} bytes that are no request")
    return [*requests, GREETING] if GREETING.encode() in received else requests


class _Kept(io.RawIOBase):
    """A socket to read from, each byte of it kept."""

    def __init__(self, connection: socket.socket, kept: bytearray) -> None:
        self._connection = connection
        self._kept = kept

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        size = self._connection.recv_into(buffer)
        self._kept += buffer[:size]
        return size


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service listens and what it received."""

    address: str
    port: int
    received: Book = field(default_factory=Book)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Services:
    """All services of the demo. `other_jobs` has the port of `jobs` on an address that no rule names."""

    jobs: Service
    other_jobs: Service
    relayed: Service
    native: Service
    refused: Service
    datagrams: Service


class JobsHandler(BaseHTTPRequestHandler):
    """GET /healthz, /jobs and /applicants, POST anywhere, and a WebSocket at /feed that says everything again."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: Nagle's algorithm would hold the body back for 40 ms
    server: "JobsServer"

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Kept(self.connection, self.server.received.connection()))

    def finish(self) -> None:
        """Keep also what comes behind the last request that was understood."""
        super().finish()
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            while self.rfile.read1(65536):
                pass
        except OSError:
            pass

    def do_GET(self) -> None:
        answers: dict[str, object] = {
            "/healthz": {"ok": True},
            "/jobs": [{"id": 1, "title": "mechanic"}],
            "/applicants": [{"name": "Jane Roe", "salary": 72000}],
        }
        path = self.path.partition("?")[0].removeprefix(f"http://{self.headers.get('Host')}")
        if path == "/feed" and self.headers.get("Upgrade") == "websocket":
            self._feed()
        elif path in answers:
            self._answer(200, answers[path])
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(201, {"id": 2})

    def _feed(self) -> None:
        key = f"{self.headers['Sec-WebSocket-Key']}{_WEBSOCKET_GUID}".encode()
        digest = hashlib.sha1(key, usedforsecurity=False).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while len(start := self.rfile.read(6)) == 6:  # kind, length below 126 with the bit that says masked, mask
            mask = start[2:]
            text = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(start[1] & 0x7F)))
            self.wfile.write(bytes((start[0], len(text))) + text)
            self.wfile.flush()
            if start[0] == _CLOSE:
                return

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """The book is the log."""


class JobsServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        self.received = RawBook()
        super().__init__((address, port), JobsHandler)

    def handle_error(self, *_arguments: object) -> None:
        """A connection that was reset, or bytes that cannot be understood, are expected here."""

    def server_bind(self) -> None:
        """HTTPServer's own looks up the host's name, which may ask a name server."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()


@contextmanager
def _jobs_service(address: str, port: int) -> Iterator[Service]:
    server = JobsServer(address, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Service(address, server.server_address[1], server.received)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _echo(connection: socket.socket, book: Book) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                book.note(data.decode("latin-1"))
                connection.sendall(data)
        except OSError:
            pass  # a reset is an end like any other


def _accept_all(listener: socket.socket, book: Book, note_connections: bool) -> None:
    while True:
        try:
            connection, peer = listener.accept()
        except OSError:
            return  # closed: the demo is over
        if note_connections:
            book.note(f"connection from {peer[0]}")
        threading.Thread(target=_echo, args=(connection, book), daemon=True).start()


def _receive_all(receiver: socket.socket, book: Book) -> None:
    while True:
        try:
            data, peer = receiver.recvfrom(65536)
        except OSError:
            return
        if not data and peer == receiver.getsockname():
            return  # our own sign to stop
        book.note(data.decode("latin-1"))
        receiver.sendto(data, peer)


@contextmanager
def _echo_service(*, note_connections: bool) -> Iterator[Service]:
    """With `note_connections` a handshake alone is already something received."""
    listener = socket.create_server((LOOPBACK, 0))
    service = Service(LOOPBACK, listener.getsockname()[1])
    thread = threading.Thread(target=_accept_all, args=(listener, service.received, note_connections), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        listener.close()
        thread.join()


@contextmanager
def _datagram_service() -> Iterator[Service]:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((LOOPBACK, 0))
    service = Service(LOOPBACK, receiver.getsockname()[1])
    thread = threading.Thread(target=_receive_all, args=(receiver, service.received), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        receiver.sendto(b"", receiver.getsockname())
        thread.join()
        receiver.close()


@contextmanager
def _jobs_on_two_addresses() -> Iterator[tuple[Service, Service]]:
    """One port on both addresses, so that between the two calls nothing but the address differs."""
    for _ in range(_PORT_TRIES):
        with ExitStack() as stack:
            jobs = stack.enter_context(_jobs_service(LOOPBACK, 0))
            try:
                other = stack.enter_context(_jobs_service(OTHER_LOOPBACK, jobs.port))
            except OSError:
                continue  # taken there: try another port
            yield jobs, other
            return
    raise OSError(f"no port is free on both {LOOPBACK} and {OTHER_LOOPBACK}; tried {_PORT_TRIES}")


@contextmanager
def running_services() -> Iterator[Services]:
    """Start everything; on leaving, nothing listens any more and no thread is left."""
    with ExitStack() as stack:
        jobs, other_jobs = stack.enter_context(_jobs_on_two_addresses())
        yield Services(
            jobs=jobs,
            other_jobs=other_jobs,
            relayed=stack.enter_context(_echo_service(note_connections=False)),
            native=stack.enter_context(_echo_service(note_connections=False)),
            refused=stack.enter_context(_echo_service(note_connections=True)),
            datagrams=stack.enter_context(_datagram_service()),
        )
