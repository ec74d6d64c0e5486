"""The servers of the demo: a jobs service, echo services and a UDP service, each with a book of what it received.

They run in threads of the demo's process, outside every workload, and are what the demo's verdicts are checked against.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOPBACK = "127.0.0.1"
OTHER_LOOPBACK = "127.0.0.2"
_PORT_TRIES = 20


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
    """GET /healthz, GET and POST /jobs, GET /applicants; everything it receives is noted first."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: Nagle's algorithm would hold the body back for 40 ms
    server: "JobsServer"

    def do_GET(self) -> None:
        self._note()
        answers: dict[str, object] = {
            "/healthz": {"ok": True},
            "/jobs": [{"id": 1, "title": "mechanic"}],
            "/applicants": [{"name": "Jane Roe", "salary": 72000}],
        }
        path = self.path.partition("?")[0]
        if path in answers:
            self._answer(200, answers[path])
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        self._note()
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(201, {"id": 2})

    def _note(self) -> None:
        self.server.received.note(f"{self.command} {self.path}")

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """The book is the log."""


class JobsServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        self.received = Book()
        super().__init__((address, port), JobsHandler)

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
