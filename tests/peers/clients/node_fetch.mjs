// Node's fetch.
import { pattern, pieces, result, run } from "./common.mjs";

const base = process.argv[2];

function stream(parts) {
  return new ReadableStream({
    pull(controller) {
      const { value, done } = parts.next();
      return done ? controller.close() : controller.enqueue(value);
    },
  });
}

async function ask(call) {
  const options = {
    method: call.method,
    headers: call.headers,
    redirect: call.flags.includes("follow") ? "follow" : "manual",
    signal: AbortSignal.timeout(30_000),
  };
  if (call.size >= 0) options.body = pattern(call.size);
  if (call.flags.includes("chunked")) {
    options.body = stream(pieces(call.size));
    options.duplex = "half";
  }
  const answer = await fetch(base + call.path, options);
  const body = Buffer.from(await answer.arrayBuffer());
  return result(answer.status, body, answer.headers.get("content-length"));
}

await run(ask);
process.exit(0);
