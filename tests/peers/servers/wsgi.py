"""A WSGI application, for gunicorn."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from answers import answer, pieces, record


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    method, target, version = environ["REQUEST_METHOD"], environ["RAW_URI"], environ["SERVER_PROTOCOL"]
    status, headers, content = answer(method, target, environ["wsgi.input"].read())
    is_chunked = environ.get("HTTP_TRANSFER_ENCODING") == "chunked"
    peer = int(environ["REMOTE_PORT"])
    record(method, target, version, environ.get("HTTP_HOST", ""), peer, is_chunked=is_chunked)
    is_long = len(content) > 100_000
    if not is_long and status not in (204, 304):
        headers = [*headers, ("Content-Length", str(len(content)))]
    start_response(f"{status} {HTTPStatus(status).phrase}", headers)
    if method == "HEAD":
        return []
    return pieces(content) if is_long else [content]
