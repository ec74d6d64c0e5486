"""httpx: one Client."""

import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
from common import Call, calls, pattern, pieces, say, say_error

BASE = sys.argv[1]


def tell(client: httpx.Client, call: Call) -> None:
    body = None if call.size < 0 else pieces(call.size) if "chunked" in call.flags else pattern(call.size)
    try:
        response = client.request(
            call.method, BASE + call.path, content=body, headers=call.headers, follow_redirects="follow" in call.flags
        )
    except httpx.HTTPError as error:
        say_error(error)
        return
    say(response.status_code, response.content, response.headers.get("Content-Length"))


with httpx.Client(timeout=30, trust_env=False) as client:
    for call in calls():
        if call.parallel == 1:
            tell(client, call)
            continue
        with ThreadPoolExecutor(call.parallel) as pool:
            list(pool.map(lambda _, call=call: tell(client, call), range(call.parallel)))
