"""aiohttp: one ClientSession."""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
from common import Call, calls, pattern, pieces, say, say_error

BASE = sys.argv[1]


async def stream(size: int) -> AsyncIterator[bytes]:
    for piece in pieces(size):
        yield piece


async def tell(session: aiohttp.ClientSession, call: Call) -> None:
    body = None if call.size < 0 else stream(call.size) if "chunked" in call.flags else pattern(call.size)
    try:
        async with session.request(
            call.method,
            BASE + call.path,
            data=body,
            headers=call.headers,
            allow_redirects="follow" in call.flags,
            expect100="expect" in call.flags,
        ) as response:
            say(response.status, await response.read(), response.headers.get("Content-Length"))
    except (aiohttp.ClientError, TimeoutError) as error:
        say_error(error)


async def main() -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        for call in calls():
            await asyncio.gather(*(tell(session, call) for _ in range(call.parallel)))


asyncio.run(main())
