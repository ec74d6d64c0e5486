"""Python's http.client: one connection, used again as long as it stands; gzip and redirects by hand, as with urllib."""

import gzip
import http.client
import sys
import threading
from urllib.parse import urljoin, urlsplit

from common import Call, calls, pattern, pieces, say, say_error


def ask(connection: http.client.HTTPConnection, call: Call, path: str) -> tuple[int, bytes, str | None]:
    body = None if call.size < 0 else pieces(call.size) if "chunked" in call.flags else pattern(call.size)
    connection.request(call.method, path, body, call.headers, encode_chunked="chunked" in call.flags)
    response = connection.getresponse()
    content = response.read()
    if "follow" in call.flags and (location := response.headers["Location"]):
        return ask(connection, call, urlsplit(urljoin(path, location)).path)
    if response.headers["Content-Encoding"] == "gzip":
        content = gzip.decompress(content)
    return response.status, content, response.headers["Content-Length"]


def tell(connection: http.client.HTTPConnection, call: Call) -> None:
    try:
        if "chunked" in call.flags:
            call.headers["Transfer-Encoding"] = "chunked"
        say(*ask(connection, call, call.path))
        if "close" in call.flags:  # it does not look at what it asked for itself
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        say_error(error)


def main() -> None:
    place = urlsplit(sys.argv[1]).netloc
    session = http.client.HTTPConnection(place, timeout=30)
    for call in calls():
        if call.parallel == 1:
            tell(session, call)
            continue
        connections = [http.client.HTTPConnection(place, timeout=30) for _ in range(call.parallel)]
        threads = [threading.Thread(target=tell, args=(connection, call)) for connection in connections]
        for thread in threads:
            thread.start()
        for thread, connection in zip(threads, connections, strict=True):
            thread.join()
            connection.close()
    session.close()


main()
