// What the two clients of Node share. See common.py for what goes in and out.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

export const calls = readFileSync(0, "utf8").split("\n").filter(Boolean).map((line) => {
  const [method, path, size, flags, parallel, header] = line.split("\t");
  const [name, value] = header.split(": ");
  const headers = name ? { [name]: value } : {};
  if (flags.includes("close")) headers.Connection = "close";
  return { method, path, size: Number(size), flags: flags.split(","), parallel: Number(parallel), headers };
});

export const pattern = (size) => Uint8Array.from({ length: size }, (_, i) => i % 251);

export function* pieces(size) {
  const body = pattern(size);
  for (let at = 0, step = 1; at < size; at += step, step = Math.min(step * 3, 30_000)) {
    yield body.subarray(at, at + step);
  }
}

export function result(status, body, length) {
  const digest = createHash("sha256").update(body).digest("hex");
  return `${status} ${body.length} ${digest} ${length ?? "-"} ${body.subarray(0, 200).toString("hex")}`;
}

export function error(failed) {
  const cause = failed.cause ? ` (${failed.cause})` : "";
  return `error ${Buffer.from(`${failed}${cause}`).toString("hex")}`;
}

export async function run(ask) {
  for (const call of calls) {
    const answers = Array.from({ length: call.parallel }, () => ask(call).catch(error));
    for (const answer of await Promise.all(answers)) console.log(answer);
  }
}
