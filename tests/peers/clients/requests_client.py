"""requests: one Session."""

import sys
from concurrent.futures import ThreadPoolExecutor

import requests
from common import Call, calls, pattern, pieces, say, say_error

BASE = sys.argv[1]


def tell(session: requests.Session, call: Call) -> None:
    body = None if call.size < 0 else pieces(call.size) if "chunked" in call.flags else pattern(call.size)
    try:
        response = session.request(
            call.method,
            BASE + call.path,
            data=body,
            headers=call.headers,
            allow_redirects="follow" in call.flags,
            timeout=30,
        )
    except requests.RequestException as error:
        say_error(error)
        return
    say(response.status_code, response.content, response.headers.get("Content-Length"))


with requests.Session() as session:
    session.trust_env = False
    for call in calls():
        if call.parallel == 1:
            tell(session, call)
            continue
        with ThreadPoolExecutor(call.parallel) as pool:
            list(pool.map(lambda _, call=call: tell(session, call), range(call.parallel)))
