"""What every server here answers, whoever made it, and the line that it writes down for each request.

Each takes over a listening socket as descriptor 3 and appends to the file that RECORD names, before it answers: a JSON
object with method, target, version, host, whether the body came in chunks, and the port of whoever connected.
"""

import gzip
import hashlib
import json
import os

LARGE = (bytes(range(251)) * 4200)[: 1 << 20]
GZIPPED = gzip.compress(b"racecar " * 2000, mtime=0)
TEXT = [("Content-Type", "text/plain")]

Answer = tuple[int, list[tuple[str, str]], bytes]


def record(method: str, target: str, version: str, host: str, peer: int, *, is_chunked: bool) -> None:
    """Write down one request; lines of several processes do not mix."""
    seen = {"method": method, "target": target, "version": version, "host": host, "chunked": is_chunked, "peer": peer}
    fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, json.dumps(seen).encode() + b"\n")
    os.close(fd)


def answer(method: str, target: str, body: bytes) -> Answer:
    """Status, headers and body; the body of /large is to be sent in chunks, without Content-Length."""
    path, _, _ = target.partition("?")
    match path.rpartition("/")[2]:
        case "up" if method in ("POST", "PUT"):
            return 200, TEXT, f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
        case "jobs":
            return 200, TEXT, b"jobs\n"
        case "echo":
            return 200, TEXT, target.encode()
        case "nothing":
            return 204, [], b""
        case "unchanged":
            return 304, [("ETag", '"one"')], b""
        case "large":
            return 200, TEXT, LARGE
        case "gzip":
            return 200, [*TEXT, ("Content-Encoding", "gzip")], GZIPPED
        case "moved":
            return 302, [("Location", path.removesuffix("moved") + "jobs")], b""
        case "moved-away":
            return 302, [("Location", path.removesuffix("moved-away") + "applicants")], b""
        case "close":
            return 200, [*TEXT, ("Connection", "close")], b"closing\n"
        case "applicants":
            return 200, TEXT, b"SECRET\n"
    return 404, TEXT, b"no such thing\n"


def pieces(body: bytes) -> list[bytes]:
    """Cut unevenly, for servers that stream."""
    return [body[:1], body[1:1000], body[1000:70_000], body[70_000:]]
