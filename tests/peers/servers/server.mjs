// Node's http module as a server. See answers.py for what goes in and out.
import { createHash } from "node:crypto";
import { appendFileSync } from "node:fs";
import http from "node:http";
import { gzipSync } from "node:zlib";

const large = Uint8Array.from({ length: 1 << 20 }, (_, i) => i % 251);
const gzipped = gzipSync("racecar ".repeat(2000));
const text = { "Content-Type": "text/plain" };

function record(request) {
  const seen = {
    method: request.method,
    target: request.url,
    version: `HTTP/${request.httpVersion}`,
    host: request.headers.host ?? "",
    chunked: request.headers["transfer-encoding"] === "chunked",
    peer: request.socket.remotePort,
  };
  appendFileSync(process.env.RECORD, JSON.stringify(seen) + "\n");
}

function say(answer, status, headers, body) {
  answer.writeHead(status, { ...headers, "Content-Length": Buffer.byteLength(body) });
  answer.end(body);
}

async function handle(request, answer) {
  const hash = createHash("sha256");
  let length = 0;
  try {
    for await (const part of request) {
      hash.update(part);
      length += part.length;
    }
  } catch {
    return; // the client did not come to its end
  }
  record(request);
  const path = request.url.split("?")[0];
  switch (path.slice(path.lastIndexOf("/") + 1)) {
    case "up":
      return say(answer, 200, text, `${length} ${hash.digest("hex")}\n`);
    case "jobs":
      return say(answer, 200, text, "jobs\n");
    case "echo":
      return say(answer, 200, text, request.url);
    case "nothing":
      return answer.writeHead(204).end();
    case "unchanged":
      return answer.writeHead(304, { ETag: '"one"' }).end();
    case "large":
      answer.writeHead(200, text);
      for (const [from, to] of [[0, 1], [1, 1000], [1000, 70_000], [70_000]]) answer.write(large.subarray(from, to));
      return answer.end();
    case "gzip":
      return say(answer, 200, { ...text, "Content-Encoding": "gzip" }, gzipped);
    case "moved":
      return say(answer, 302, { Location: path.replace(/moved$/, "jobs") }, "");
    case "moved-away":
      return say(answer, 302, { Location: path.replace(/moved-away$/, "applicants") }, "");
    case "close":
      return say(answer, 200, { ...text, Connection: "close" }, "closing\n");
    case "applicants":
      return say(answer, 200, text, "SECRET\n");
    default:
      return say(answer, 404, text, "no such thing\n");
  }
}

const server = http.createServer(handle);
server.keepAliveTimeout = 60_000;
server.listen({ fd: 3 });
