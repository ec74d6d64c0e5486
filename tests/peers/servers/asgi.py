"""An ASGI application, for uvicorn. It streams /large and takes uploads piece by piece."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from answers import answer, pieces, record

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    body = b""
    more = True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
    is_chunked = headers.get("transfer-encoding") == "chunked"
    version, peer = "HTTP/" + scope["http_version"], scope["client"][1]
    status, out, content = answer(scope["method"], target, body)
    record(scope["method"], target, version, headers.get("host", ""), peer, is_chunked=is_chunked)
    is_long = len(content) > 100_000
    if not is_long and status not in (204, 304):
        out = [*out, ("Content-Length", str(len(content)))]
    encoded = [(name.lower().encode(), value.encode()) for name, value in out]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    for piece in pieces(content) if is_long else [content]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
