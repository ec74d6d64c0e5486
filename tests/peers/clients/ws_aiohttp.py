"""aiohttp as a WebSocket client: `CLIENT URL`. Says what ws_websockets.py says; it sends no fragments."""

import asyncio
import hashlib
import json
import sys

import aiohttp

MEGABYTE = bytes(range(256)) * 4096


async def converse(session: aiohttp.ClientSession) -> dict[str, object]:
    told: dict[str, object] = {"status": 101}
    async with session.ws_connect(sys.argv[1], max_msg_size=0) as connection:
        await connection.send_str("grüße")
        told["text"] = await connection.receive_str()
        await connection.send_bytes(b"\x00\xff")
        told["binary"] = (await connection.receive_bytes()).hex()
        await connection.send_str("fragments")
        told["fragments received"] = await connection.receive_str()
        await connection.send_bytes(MEGABYTE)
        told["megabyte"] = hashlib.sha256(await connection.receive_bytes()).hexdigest()
        await connection.send_str("end")
        closing = await connection.receive()
        told["closed by server"] = [closing.data, closing.extra]
    async with session.ws_connect(sys.argv[1], autoping=False) as connection:
        await connection.ping(b"here")
        told["pong"] = (await connection.receive()).data == b"here"
        await connection.close(code=4002, message=b"enough")
        told["closed by client"] = [connection.close_code, "enough"]
    return told


async def main() -> None:
    async with aiohttp.ClientSession() as session:
        try:
            told = await converse(session)
        except aiohttp.WSServerHandshakeError as refused:
            told = {"status": refused.status}
    print(json.dumps(told))


asyncio.run(main())
