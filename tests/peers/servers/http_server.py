"""Python's http.server, with threads. It leaves chunks to the handler, both ways."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from answers import answer, pieces, record


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def handle_any(self) -> None:
        is_chunked = self.headers["Transfer-Encoding"] == "chunked"
        status, headers, content = answer(self.command, self.path, self.body())
        host, peer = self.headers["Host"] or "", self.client_address[1]
        record(self.command, self.path, self.request_version, host, peer, is_chunked=is_chunked)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        is_long = len(content) > 100_000 and self.request_version == "HTTP/1.1"
        if is_long:
            self.send_header("Transfer-Encoding", "chunked")
        elif status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if not is_long:
            self.wfile.write(content)
            return
        for piece in (*pieces(content), b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - their names


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


Server(socket.socket(fileno=3)).serve_forever()
