-- For wrk: counts and latencies as one line of JSON; with "fresh" RUN, a head that the proxy has never seen, each time.
--   wrk ... -s load.lua URL -- [fresh RUN]
-- RUN is a number that no other round of the same run has.

local function fresh_heads(run)
    local n = 0
    -- Two numbers below 2^31, each formatted on its own: Lua's numbers are floats, and a single counter with the run in
    -- its upper digits would lose its last ones (from 1e14 on it would even print as 1.79e+14, always the same head).
    local head = table.concat({
        "GET /items/%08x%08x HTTP/1.1",
        "Host: items.example",
        "User-Agent: items-client/2.7.1 (linux; x86_64) generated/1.4",
        "Accept: application/json",
        "Accept-Encoding: gzip, deflate",
        "Authorization: Bearer 6f1c0b7d5a3e49f28c6d1e0f7a2b3c4d5e6f708192a3b4c5",
        "traceparent: 00-%08x%08x4bf92f3577b34da6-00f067aa%08x-01",
        "tracestate: items=00f067aa0ba902b7",
        "X-Forwarded-For: 10.1.2.3",
        "Cache-Control: no-cache", "", "" }, "\r\n")
    return function()
        n = n + 1
        return string.format(head, run, n, run, n, n)
    end
end

function init(args)
    if args[1] == "fresh" then
        request = fresh_heads(tonumber(args[2]))
    end
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "bytes": %d, "duration_us": %d, "connect": %d, "read": %d, "write": %d, ' ..
        '"status": %d, "timeout": %d, "p50_us": %d, "p99_us": %d}\n',
        summary.requests, summary.bytes, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
