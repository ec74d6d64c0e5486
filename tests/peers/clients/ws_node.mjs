// Node's own WebSocket: `CLIENT URL`. Says what ws_websockets.py says; it sends neither fragments nor pings.
import { createHash } from "node:crypto";

const url = process.argv[2];
const told = {};

function open() {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve(socket);
    socket.onerror = () => reject(new Error("refused"));
  });
}

function next(socket, event) {
  return new Promise((resolve) => {
    socket.addEventListener(event, resolve, { once: true });
  });
}

async function echo(socket, message) {
  const answer = next(socket, "message");
  socket.send(message);
  return (await answer).data;
}

async function converse() {
  const socket = await open();
  told.status = 101;
  told.text = await echo(socket, "grüße");
  told.binary = Buffer.from(await echo(socket, new Uint8Array([0, 255]))).toString("hex");
  told["fragments received"] = await echo(socket, "fragments");
  const megabyte = Uint8Array.from({ length: 1 << 20 }, (_, i) => i % 256);
  told.megabyte = createHash("sha256").update(Buffer.from(await echo(socket, megabyte))).digest("hex");
  const closed = next(socket, "close");
  socket.send("end");
  const end = await closed;
  told["closed by server"] = [end.code, end.reason];
  const another = await open();
  const ended = next(another, "close");
  another.close(4002, "enough");
  const last = await ended;
  told["closed by client"] = [last.code, last.reason];
}

await converse().catch(() => {
  told.status = 403; // it tells nobody which
});
console.log(JSON.stringify(told));
process.exit(0);
