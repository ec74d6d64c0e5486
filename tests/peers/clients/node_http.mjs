// Node's http module: one connection for what is asked in a row, free ones for what is asked at once.
import http from "node:http";
import { gunzipSync } from "node:zlib";
import { pattern, pieces, result, run } from "./common.mjs";

const base = process.argv[2];
const inARow = new http.Agent({ keepAlive: true, maxSockets: 1 });
const atOnce = new http.Agent({ keepAlive: true });

function send(request, call) {
  if (call.size < 0) return request.end();
  if (!call.flags.includes("chunked")) return request.end(pattern(call.size));
  for (const piece of pieces(call.size)) request.write(piece);
  return request.end();
}

function ask(call, path = call.path) {
  return new Promise((resolve, reject) => {
    const headers = { ...call.headers };
    if (call.size >= 0 && !call.flags.includes("chunked")) headers["Content-Length"] = call.size;
    if (call.flags.includes("expect")) headers.Expect = "100-continue";
    // An agent does not look at a Connection header: without one Node says and does close.
    const agent = call.flags.includes("close") ? false : call.parallel > 1 ? atOnce : inARow;
    const request = http.request(base + path, { method: call.method, headers, agent, timeout: 30_000 });
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("timed out")));
    request.on("response", async (answer) => {
      const parts = [];
      try {
        for await (const part of answer) parts.push(part);
      } catch (failed) {
        return reject(failed);
      }
      let body = Buffer.concat(parts);
      if (answer.headers["content-encoding"] === "gzip") body = gunzipSync(body);
      if (call.flags.includes("follow") && answer.headers.location) {
        return resolve(ask(call, new URL(answer.headers.location, base + path).pathname));
      }
      resolve(result(answer.statusCode, body, answer.headers["content-length"]));
    });
    if (call.flags.includes("expect")) request.on("continue", () => send(request, call)).flushHeaders();
    else send(request, call);
  });
}

await run((call) => ask(call));
process.exit(0);
