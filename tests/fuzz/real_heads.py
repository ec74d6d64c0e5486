"""Heads as ordinary clients and servers send them: the grammar must take every one of them.

Written from knowledge of their form: the order, spelling and oddities are what matters here, not the values.
"""


def _head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


_CHROME_UA = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36"
_LONG_COOKIE = "; ".join(f"_ga_{n}=GS1.1.{n}.{'x' * 40}" for n in range(40))

REQUEST_HEADS = {
    "curl": _head("GET /jobs HTTP/1.1", "Host: jobs:8080", "User-Agent: curl/8.5.0", "Accept: */*"),
    "curl, post": _head(
        "POST /jobs HTTP/1.1", "Host: jobs", "User-Agent: curl/7.88.1", "Accept: */*", "Content-Length: 7",
        "Content-Type: application/x-www-form-urlencoded",
    ),
    "curl, large upload": _head(
        "PUT /jobs/big HTTP/1.1", "Host: jobs", "User-Agent: curl/7.88.1", "Accept: */*", "Content-Length: 1048576",
        "Expect: 100-continue",
    ),
    "curl, from a pipe": _head(
        "PUT /jobs HTTP/1.1", "Host: jobs", "User-Agent: curl/8.5.0", "Accept: */*", "Transfer-Encoding: chunked",
        "Expect: 100-continue",
    ),
    "curl, --http2": _head(
        "GET / HTTP/1.1", "Host: jobs", "User-Agent: curl/8.5.0", "Accept: */*",
        "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    ),
    "curl, HTTP/1.0": _head("GET / HTTP/1.0", "Host: 127.0.0.1:80", "User-Agent: curl/8.5.0", "Accept: */*"),
    "curl, IPv6": _head("GET / HTTP/1.1", "Host: [fd00::1]:8080", "User-Agent: curl/8.5.0", "Accept: */*"),
    "curl, through a proxy": _head(
        "GET http://jobs:8080/a?b HTTP/1.1", "Host: jobs:8080", "User-Agent: curl/8.5.0", "Accept: */*",
        "Proxy-Connection: Keep-Alive",
    ),
    "curl, a tunnel": _head(
        "CONNECT jobs:443 HTTP/1.1", "Host: jobs:443", "User-Agent: curl/8.5.0", "Proxy-Connection: Keep-Alive",
    ),
    "curl, no header at all": _head("GET / HTTP/1.1", "Host: a"),
    "wget": _head(
        "GET /jobs HTTP/1.1", "User-Agent: Wget/1.21.3", "Accept: */*", "Accept-Encoding: identity", "Host: jobs",
        "Connection: Keep-Alive",
    ),
    "Chrome": _head(
        "GET /jobs?q=a%20b&c=[1] HTTP/1.1", "Host: jobs", "Connection: keep-alive", "Cache-Control: max-age=0",
        'sec-ch-ua: "Chromium";v="128", "Not;A=Brand";v="24"', "sec-ch-ua-mobile: ?0", 'sec-ch-ua-platform: "Linux"',
        "Upgrade-Insecure-Requests: 1", f"User-Agent: {_CHROME_UA}",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-User: ?1", "Sec-Fetch-Dest: document",
        "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en-GB,en;q=0.9", f"Cookie: {_LONG_COOKIE}",
        'If-None-Match: W/"33a64df551425fcc55e4d42a148795d9f25f89d4"',
        "If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT",
    ),
    "Firefox": _head(
        "GET /favicon.ico HTTP/1.1", "Host: jobs",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:129.0) Gecko/20100101",
        "Accept: image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        "Accept-Language: en-US,en;q=0.5", "Accept-Encoding: gzip, deflate", "DNT: 1", "Sec-GPC: 1",
        "Connection: keep-alive", "Referer: http://jobs/", "Priority: u=6", "TE: trailers",
    ),
    "Safari": _head(
        "POST /jobs HTTP/1.1", "Host: jobs",
        "Content-Type: multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk", "Origin: http://jobs",
        "Accept-Encoding: gzip, deflate", "Connection: keep-alive", "Upgrade-Insecure-Requests: 1", "Accept: */*",
        "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "Content-Length: 0", "Accept-Language: en-GB",
    ),
    "a browser's preflight": _head(
        "OPTIONS /jobs HTTP/1.1", "Host: jobs", "Accept: */*", "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: content-type,x-key", "Origin: null", "Connection: keep-alive",
    ),
    "a browser's WebSocket": _head(
        "GET /ws HTTP/1.1", "Host: jobs", "Connection: Upgrade", "Pragma: no-cache", "Upgrade: websocket",
        "Origin: http://jobs", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ),
    "Firefox's WebSocket": _head(
        "GET /ws HTTP/1.1", "Host: jobs", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "Java HttpClient": _head(
        "GET /jobs HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Host: jobs:8080",
        "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA", "Upgrade: h2c",
        "User-Agent: Java-http-client/17.0.12",
    ),
    "Java HttpClient, post": _head(
        "POST /jobs HTTP/1.1", "Content-Length: 3", "Host: jobs", "User-Agent: Java-http-client/21",
        "Content-Type: text/plain",
    ),
    "Java HttpURLConnection": _head(
        "GET /jobs HTTP/1.1", "User-Agent: Java/17.0.12", "Host: jobs",
        "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "Connection: keep-alive",
    ),
    "Java, Apache HttpClient": _head(
        "POST /jobs HTTP/1.1", "Accept-Encoding: gzip, x-gzip, deflate",
        "Content-Type: application/json; charset=UTF-8", "Transfer-Encoding: chunked", "Host: jobs",
        "Connection: keep-alive", "User-Agent: Apache-HttpClient/5.2.1 (Java/17)",
    ),
    "Java, OkHttp": _head(
        "GET /jobs HTTP/1.1", "Host: jobs", "Connection: Keep-Alive", "Accept-Encoding: gzip",
        "User-Agent: okhttp/4.12.0",
    ),
    "Go": _head("GET /jobs HTTP/1.1", "Host: jobs:8080", "User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"),
    "Go, post": _head(
        "POST /jobs HTTP/1.1", "Host: jobs", "User-Agent: Go-http-client/1.1", "Content-Length: 12",
        "Content-Type: application/json", "Accept-Encoding: gzip",
    ),
    "Go, a body of unknown length": _head(
        "POST /jobs HTTP/1.1", "Host: jobs", "User-Agent: Go-http-client/1.1", "Transfer-Encoding: chunked",
        "Accept-Encoding: gzip",
    ),
    "Go, a body with trailers": _head(
        "POST /jobs HTTP/1.1", "Host: jobs", "User-Agent: Go-http-client/1.1", "Transfer-Encoding: chunked",
        "Trailer: X-Sum", "Accept-Encoding: gzip",
    ),
    "Go, kubelet's probe": _head(
        "GET /healthz HTTP/1.1", "Host: 10.1.2.3:8080", "User-Agent: kube-probe/1.30", "Accept: */*",
        "Connection: close",
    ),
    "Node": _head("GET /jobs HTTP/1.1", "Host: jobs:8080", "Connection: keep-alive"),
    "Node, before 19": _head("GET /jobs HTTP/1.1", "Host: jobs", "Connection: close"),
    "Node, fetch": _head(
        "POST /jobs HTTP/1.1", "host: jobs", "connection: keep-alive", "content-type: text/plain;charset=UTF-8",
        "accept: */*", "accept-language: *", "sec-fetch-mode: cors", "user-agent: node",
        "accept-encoding: gzip, deflate", "content-length: 2",
    ),
    "Node, axios": _head(
        "POST /jobs HTTP/1.1", "Accept: application/json, text/plain, */*", "Content-Type: application/json",
        "User-Agent: axios/1.7.2", "Content-Length: 13", "Accept-Encoding: gzip, compress, deflate, br", "Host: jobs",
        "Connection: keep-alive",
    ),
    "Python http.client": _head("GET /jobs HTTP/1.1", "Host: jobs", "Accept-Encoding: identity"),
    "Python urllib": _head(
        "GET /jobs HTTP/1.1", "Accept-Encoding: identity", "Host: jobs", "User-Agent: Python-urllib/3.11",
        "Connection: close",
    ),
    "Python requests": _head(
        "DELETE /jobs/1 HTTP/1.1", "Host: jobs", "User-Agent: python-requests/2.31.0",
        "Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive", "Content-Length: 0",
    ),
    "Python aiohttp": _head(
        "GET /jobs HTTP/1.1", "Host: jobs:8080", "Accept: */*", "Accept-Encoding: gzip, deflate",
        "User-Agent: Python/3.11 aiohttp/3.9.5",
    ),
    "Python httpx": _head(
        "PATCH /jobs HTTP/1.1", "Host: jobs", "Accept: */*", "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive", "User-Agent: python-httpx/0.27.0", "Content-Length: 2",
        "Content-Type: application/json",
    ),
    "Python websockets": _head(
        "GET /ws HTTP/1.1", "Host: jobs", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "User-Agent: Python/3.11 websockets/12.0",
    ),
    "Rust hyper": _head("GET /jobs HTTP/1.1", "accept: */*", "host: jobs"),
    ".NET": _head(
        "POST /jobs HTTP/1.1", "Host: jobs", "Content-Type: application/json; charset=utf-8",
        "Transfer-Encoding: chunked",
    ),
    ".NET, with a trace": _head(
        "GET /jobs HTTP/1.1", "Host: jobs", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Request-Id: |7dba3c11.", "Correlation-Context: a=b",
    ),
    "Ruby": _head(
        "GET /jobs HTTP/1.1", "Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3", "Accept: */*",
        "User-Agent: Ruby", "Host: jobs",
    ),
    "PHP streams": _head("GET /jobs HTTP/1.1", "Host: jobs", "Connection: close"),
    "PHP streams, HTTP/1.0": _head("GET /jobs HTTP/1.0", "Host: jobs", "Connection: close"),
    "ab": _head(
        "GET /jobs HTTP/1.0", "Connection: Keep-Alive", "Host: jobs", "User-Agent: ApacheBench/2.3", "Accept: */*",
    ),
    "wrk": _head("GET /jobs HTTP/1.1", "Host: 127.0.0.1:8080"),
    "nginx, to an upstream": _head("GET /jobs HTTP/1.0", "Host: backend", "Connection: close", "X-Real-IP: 192.0.2.1"),
    "Envoy, to an upstream": _head(
        "GET /jobs HTTP/1.1", "host: jobs", "user-agent: curl/8", "accept: */*", "x-forwarded-proto: http",
        "x-request-id: 9d2a3f1e-4c1b-4f8e-9b0e-0a1b2c3d4e5f", "x-envoy-expected-rq-timeout-ms: 15000",
    ),
    "WebDAV": _head(
        "PROPFIND /dav/ HTTP/1.1", "Host: jobs", "Depth: 1", "Content-Type: application/xml", "Content-Length: 3",
    ),
    "UPnP-like method": _head("M-SEARCH * HTTP/1.1", "Host: 239.255.255.250:1900", 'Man: "ssdp:discover"'),
    "an empty value": _head("GET /jobs HTTP/1.1", "Host: jobs", "X-Empty:", "Cookie: "),
    "no space behind colons": _head("GET /jobs HTTP/1.1", "Host:jobs", "Accept:*/*", "Content-Length:0"),
    "space behind values": _head("GET /jobs HTTP/1.1", "Host: jobs ", "Accept: */*  ", "Connection: keep-alive\t"),
    "Latin-1 in a value": _head("GET /jobs HTTP/1.1", "Host: jobs", "X-Name: J\xf6rg"),
    "UTF-8 in a value": _head("GET /jobs HTTP/1.1", "Host: jobs", "X: \u2713".encode().decode("latin-1")),
    "a token of 6 KB": _head("GET /jobs HTTP/1.1", "Host: jobs", f"Authorization: Bearer {'eyJ' * 2000}"),
}  # fmt: skip
# Well known, and refused: the reason stands in `test_readers`.
REFUSED_HEADS = {"UPnP-like method"}

RESPONSE_HEADS = {
    "nginx": _head(
        "HTTP/1.1 200 OK", "Server: nginx/1.22.1", "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Content-Type: text/html",
        "Content-Length: 615", "Last-Modified: Mon, 24 Oct 2022 09:04:00 GMT", "Connection: keep-alive",
        'ETag: "63565580-267"', "Accept-Ranges: bytes",
    ),
    "nginx, gzip": _head(
        "HTTP/1.1 200 OK", "Server: nginx", "Content-Type: text/html; charset=utf-8", "Transfer-Encoding: chunked",
        "Connection: keep-alive", "Vary: Accept-Encoding", "Content-Encoding: gzip",
    ),
    "nginx, a redirect": _head(
        "HTTP/1.1 301 Moved Permanently", "Server: nginx", "Content-Length: 169", "Location: http://jobs/a/",
        "Connection: close",
    ),
    "nginx, not modified": _head("HTTP/1.1 304 Not Modified", "Server: nginx", 'ETag: W/"a"', "Connection: keep-alive"),
    "nginx, too many": _head("HTTP/1.1 429 Too Many Requests", "Retry-After: 1", "Content-Length: 0"),
    "Apache": _head(
        "HTTP/1.1 200 OK", "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Server: Apache/2.4.62 (Debian)", "Upgrade: h2,h2c",
        "Connection: Upgrade, Keep-Alive", "Keep-Alive: timeout=5, max=100", "Content-Length: 3",
        "Content-Type: text/html",
    ),
    "Apache, HTTP/1.0 client": _head(
        "HTTP/1.1 200 OK", "Server: Apache", "Connection: close", "Content-Type: text/html",
    ),
    "IIS": _head(
        "HTTP/1.1 200 OK", "Cache-Control: private", "Content-Length: 10", "Content-Type: text/html; charset=utf-8",
        "Server: Microsoft-IIS/10.0", "X-AspNet-Version: 4.0.30319", "X-Powered-By: ASP.NET",
        "Date: Wed, 21 Oct 2015",
    ),
    "IIS, authentication": _head(
        "HTTP/1.1 401 Unauthorized", "WWW-Authenticate: Negotiate", "WWW-Authenticate: NTLM", "Content-Length: 0",
    ),
    "gunicorn": _head(
        "HTTP/1.1 200 OK", "Server: gunicorn", "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Connection: close",
        "Content-Type: text/plain", "Content-Length: 2",
    ),
    "gunicorn, chunked": _head(
        "HTTP/1.1 200 OK", "Server: gunicorn", "Connection: keep-alive", "Transfer-Encoding: chunked",
    ),
    "uvicorn": _head(
        "HTTP/1.1 200 OK", "date: Wed, 21 Oct 2015 07:28:00 GMT", "server: uvicorn", "content-length: 2",
        "content-type: application/json",
    ),
    "uvicorn, WebSocket": _head(
        "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x=",
        "date: Wed, 21 Oct 2015 07:28:00 GMT", "server: uvicorn",
    ),
    "Python http.server": _head("HTTP/1.0 200 OK", "Server: SimpleHTTP/0.6 Python/3.11.2", "Content-type: text/html"),
    "Node": _head(
        "HTTP/1.1 200 OK", "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Connection: keep-alive", "Keep-Alive: timeout=5",
        "Transfer-Encoding: chunked",
    ),
    "Node, Express": _head(
        "HTTP/1.1 200 OK", "X-Powered-By: Express", "Content-Type: application/json; charset=utf-8",
        "Content-Length: 15", 'ETag: W/"f-1"', "Set-Cookie: a=b; Path=/; HttpOnly",
        "Set-Cookie: c=d; Expires=Wed, 21 Oct 2015 07:28:00 GMT",
    ),
    "Go": _head(
        "HTTP/1.1 200 OK", "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Content-Length: 5", "Content-Type: text/plain",
    ),
    "Go, trailers": _head("HTTP/1.1 200 OK", "Trailer: Grpc-Status", "Transfer-Encoding: chunked"),
    "Go, continue": _head("HTTP/1.1 100 Continue"),
    "Go, an unknown status": _head("HTTP/1.1 499 status code 499", "Content-Length: 0"),
    "Tomcat, no phrase": _head("HTTP/1.1 200 ", "Content-Type: text/html;charset=UTF-8", "Transfer-Encoding: chunked"),
    "Jetty": _head("HTTP/1.1 404 Not Found", "Cache-Control: must-revalidate,no-cache,no-store", "Content-Length: 363"),
    "Kestrel": _head("HTTP/1.1 204 No Content", "Date: Wed, 21 Oct 2015 07:28:00 GMT", "Server: Kestrel"),
    "Rails": _head("HTTP/1.1 201 Created", "X-Runtime: 0.01", "X-Request-Id: a-b", "transfer-encoding: chunked"),
    "S3": _head(
        "HTTP/1.1 206 Partial Content", "Content-Range: bytes 0-9/100", "Content-Length: 10", "x-amz-id-2: a/b+c=",
    ),
    "early hints": _head("HTTP/1.1 103 Early Hints", "Link: </style.css>; rel=preload; as=style"),
    "Envoy": _head("HTTP/1.1 503 Service Unavailable", "content-length: 91", "server: envoy", "date: Wed, 21 Oct 2015"),
    "Envoy, a tunnel": _head("HTTP/1.1 200 OK", "date: Wed, 21 Oct 2015 07:28:00 GMT", "server: envoy"),
    "squid, a tunnel": _head("HTTP/1.1 200 Connection established"),
    "until the end": _head("HTTP/1.1 200 OK", "Content-Type: text/plain", "Connection: close"),
    "ICY-like phrase": _head("HTTP/1.0 200 OK, sure: why not?"),
    "not found, Latin-1 phrase": _head("HTTP/1.1 404 Non trouv\xe9", "Content-Length: 0"),
}  # fmt: skip
