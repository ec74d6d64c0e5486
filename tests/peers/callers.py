"""Clients of other makers: each runs a script of calls in one process and says what its application got."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
LIMIT_S = 50.0


def pattern(size: int) -> bytes:
    """What every body consists of."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@dataclass(frozen=True)
class Call:
    """One call of a script; calls with the same `group` in a row belong on one connection."""

    method: str
    path: str
    size: int = -1  # of the body; -1 for none
    flags: frozenset[str] = frozenset()  # chunked, expect, close, follow; others say which clients cannot do it
    parallel: int = 1
    header: str = ""
    group: str = ""

    @property
    def line(self) -> str:
        flags = ",".join(sorted(self.flags))
        return "\t".join([self.method, self.path, str(self.size), flags, str(self.parallel), self.header])


@dataclass(frozen=True)
class Got:
    """What the application got. `error` if it got nothing; the digest is that of the decoded body."""

    status: int = 0
    length: int = 0
    sha256: str = ""
    content_length: str = "-"
    start: bytes = b""
    error: str = ""

    @classmethod
    def of(cls, status: int, body: bytes, content_length: str = "-") -> "Got":
        return cls(status, len(body), sha256(body).hexdigest(), content_length, body[:200])

    @classmethod
    def parse(cls, line: str) -> "Got":
        """Read a line of a client's own output (clients/common.py)."""
        word = line.split(" ")
        if word[0] == "error":
            return cls(error=bytes.fromhex(word[1]).decode(errors="replace"))
        return cls(int(word[0]), int(word[1]), word[2], word[3], bytes.fromhex(word[4]))


@dataclass(frozen=True)
class Client:
    """How to run it, and what it cannot do, with or without a proxy: flags of calls."""

    name: str
    run: Callable[[str, Sequence[Call]], list[Got]]
    cannot: frozenset[str] = frozenset()
    connections: int = 1  # that it takes for calls in a row


def run_program(argv: Sequence[str], base: str, calls: Sequence[Call]) -> list[Got]:
    """A client that speaks as clients/common.py says."""
    script = "".join(call.line + "\n" for call in calls)
    done = subprocess.run([*argv, base], input=script, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}: {done.stderr}"
    return [Got.parse(line) for line in done.stdout.splitlines()]


# --- curl ------------------------------------------------------------------------------------------------------------


def curl_arguments(base: str, call: Call, folder: Path, number: int) -> list[str]:
    """The part of a command line between two --next."""
    body = folder / "body" / str(call.size)
    argv = ["-sS", "--compressed", "--max-time", "30", "-w", "%{json}\\n", "-o", str(folder / f"{number}.body")]
    argv += ["-I"] if call.method == "HEAD" else ["-X", call.method] if call.method != "GET" else []
    if call.size >= 0:
        body.parent.mkdir(exist_ok=True)
        body.write_bytes(pattern(call.size))
        argv += ["--data-binary", f"@{body}", "-H", "Content-Type: application/octet-stream"]
    if "chunked" in call.flags:
        argv += ["-H", "Transfer-Encoding: chunked"]
    if "expect" in call.flags:
        argv += ["-H", "Expect: 100-continue", "--expect100-timeout", "20"]
    if "close" in call.flags:
        argv += ["-H", "Connection: close"]
    if "follow" in call.flags:
        argv += ["-L"]
    if "http1.0" in call.flags:
        argv += ["--http1.0"]
    if call.header:
        argv += ["-H", call.header]
    return [*argv, base + call.path]


def curl_got(said: str, folder: Path) -> Got:
    told = json.loads(said)
    if told["exitcode"]:
        return Got(error=f"curl: {told['errormsg']}")
    written = Path(told["filename_effective"] or folder / "none")
    content = written.read_bytes() if written.exists() else b""
    if told["method"] != "HEAD":
        return Got.of(told["http_code"], content)
    fields = dict(line.lower().split(": ", 1) for line in content.decode().splitlines()[1:] if line)
    return Got.of(told["http_code"], b"", fields.get("content-length", "-"))


def run_curl(curl: Sequence[str], base: str, calls: Sequence[Call]) -> list[Got]:
    """All calls in one process, so that connections are used again; those at once in a process of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # a workload is somebody else
        got: list[Got] = []
        for at_once, some in groupby(calls, lambda call: call.parallel > 1):
            listed = [call for call in some for _ in range(call.parallel)]
            argv = [*curl, "-Z"] if at_once else [*curl]
            for number, call in enumerate(listed):
                if number:
                    argv.append("--next")
                argv += curl_arguments(base, call, folder, len(got) + number)
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT_S)
            got += [curl_got(line, folder) for line in done.stdout.splitlines()]
        return got


# --- wget ------------------------------------------------------------------------------------------------------------


def wget_arguments(call: Call, folder: Path) -> list[str]:
    argv = ["--method", call.method, "--tries=1", "--timeout=30", "--content-on-error", "--compression=gzip"]
    argv += ["--server-response", "--no-verbose", "--no-proxy", "--save-headers", "-O", "-"]
    if call.size >= 0:
        body = folder / str(call.size)
        body.write_bytes(pattern(call.size))
        argv += [f"--body-file={body}"]
    if "close" in call.flags:
        argv += ["--no-http-keep-alive"]
    if "follow" not in call.flags:
        argv += ["--max-redirect=0"]
    return argv + ([f"--header={call.header}"] if call.header else [])


def wget_answers(output: bytes, said: str) -> Iterator[Got]:
    """The answers of one process: heads and bodies in a row, as --save-headers writes them; 204 and 304 leave none."""
    heads = [line.split() for line in said.splitlines() if line.startswith("  HTTP/1.")]
    if not output:
        lengths = [line.split()[1] for line in said.splitlines() if line.lower().startswith("  content-length: ")]
        yield Got.of(int(heads[-1][1]), b"", (lengths or ["-"])[-1]) if heads else Got(error=f"wget: {said}")
        return
    while output:
        head, _, output = output.partition(b"\n\n" if b"\r\n\r\n" not in output else b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode("latin-1").splitlines()[1:])
        is_counted = "content-length" in fields and "content-encoding" not in fields
        size = int(fields["content-length"]) if is_counted else len(output)
        yield Got.of(int(head.split()[1]), output[:size], fields.get("content-length", "-"))
        output = output[size:]


def run_wget(wget: str, base: str, calls: Sequence[Call]) -> list[Got]:
    """A process for each group; a call without group is one by itself."""
    got: list[Got] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbered = enumerate(calls)
        for _, group in groupby(numbered, lambda pair: pair[1].group or pair[0]):
            some = [call for _, call in group]
            # It does nothing twice at once: as many processes as are asked for.
            argv = [wget, *wget_arguments(some[0], folder), *(base + call.path for call in some)]
            running = [
                subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(some[0].parallel)
            ]
            for process in running:
                output, said = process.communicate(timeout=LIMIT_S)
                got += wget_answers(output, said.decode())
    return got


# --- All of them -----------------------------------------------------------------------------------------------------

CLIENTS = ("curl", "wget", "http_client", "requests", "aiohttp", "httpx", "java", "go", "node_http", "node_fetch")


@dataclass
class Callers:
    """Builds what is to be built; `client` skips by name where something is missing.

    wget, which is many processes, does not heed `enter`.
    """

    build_go: Callable[[Path], Path]
    build_java: Callable[[Path], Path]
    tool: Callable[[str], str]
    sources: Path = HERE / "clients"
    python: str = sys.executable
    enter: tuple[str, ...] = ()  # comes before every command

    def client(self, name: str) -> Client:
        match name:
            case "curl":
                curl = [*self.enter, self.tool("curl")]
                return Client(name, lambda base, calls: run_curl(curl, base, calls))
            case "wget":
                wget = self.tool("wget")
                # It waits for the body of a 304 that names no length.
                cannot = frozenset({"chunked", "expect", "conditional"})
                return Client(name, lambda base, calls: run_wget(wget, base, calls), cannot)
            case "java":
                classes = str(self.build_java(self.sources / "Client.java"))
                options = ["-XX:TieredStopAtLevel=1", "-Djdk.httpclient.allowRestrictedHeaders=connection"]
                # JDK 17 waits for ever if the answer to an expectation is final.
                return self._program(name, [self.tool("java"), *options, "-cp", classes, "Client"], "expect-refused")
            case "go":
                return self._program(name, [str(self.build_go(self.sources / "client.go"))])
            case "node_http":
                return self._program(name, [self.tool("node"), str(self.sources / "node_http.mjs")])
            case "node_fetch":
                argv = [self.tool("node"), str(self.sources / "node_fetch.mjs")]
                # It asks again before it has put the connection back, and then takes another one.
                return self._program(name, argv, "close", "expect", connections=2)
            case "aiohttp":
                return self._python(name, name)
            case "requests" | "httpx":
                return self._python(name, name, "expect")
            case _:
                return self._program(name, [self.python, str(self.sources / "http_client.py")], "expect")

    def _python(self, name: str, library: str, *cannot: str) -> Client:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library} (pip install racecar[peers])")
        return self._program(name, [self.python, str(self.sources / f"{name}_client.py")], *cannot)

    def _program(self, name: str, argv: list[str], *cannot: str, connections: int = 1) -> Client:
        command = [*self.enter, *argv]
        return Client(name, lambda base, calls: run_program(command, base, calls), frozenset(cannot), connections)
