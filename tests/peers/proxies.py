"""`racecar run --no-bpf` as a process of its own, and the policies that it is given."""

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.peers.origins import Process, wait_until

LISTENING = re.compile(r"racecar: listening on \S+:(\d+)$", re.MULTILINE)

# The first segment is the run's own.
RULES: list[dict[str, Any]] = [
    {
        "method": "GET|HEAD",
        "path": "/[^/]+/(jobs|large|gzip|nothing|unchanged|moved|moved-away|close|odd/[a-z0-9-]+)",
    },
    {"method": "GET", "path": "/[^/]+/(jobs|echo|download)\\?.*"},
    {"method": "POST|PUT", "path": "/[^/]+/(up|odd/[a-z0-9-]+)"},
]


def policy(directory: Path, port: int, rules: dict[str, Any]) -> Path:
    """Write a RacecarPolicy with L7 rules for one port of loopback."""
    document = {
        "apiVersion": "racecar.io/v1",
        "kind": "RacecarPolicy",
        "metadata": {"name": "peers"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "client"}},
            "egress": [
                {
                    "toCIDR": ["127.0.0.1/32"],
                    "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}], "rules": rules}],
                }
            ],
        },
    }
    path = Path(tempfile.mkdtemp(prefix="policy-", dir=directory)) / "peers.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class Proxy:
    """Listens on a free port of loopback for one upstream."""

    def __init__(self, directory: Path, upstream: int, rules: dict[str, Any], options: Sequence[str] = ()) -> None:
        path = policy(directory, upstream, rules)
        self._log = path.with_name("access.jsonl")
        argv = [str(Path(sys.executable).with_name("racecar")), "run", "--no-bpf", "--listen", "127.0.0.1:0"]
        argv += ["--upstream", f"127.0.0.1:{upstream}", "--policy", str(path), "--labels", "app=client"]
        argv += ["--drain-timeout", "1", "--access-log", str(self._log), *options]
        self._process = Process(argv)
        try:
            self.port = self._wait_port()
        except AssertionError:
            self._process.stop()
            raise
        self.base = f"http://127.0.0.1:{self.port}"

    def _wait_port(self) -> int:
        def is_up() -> bool:
            return self._process.process.poll() is not None or bool(LISTENING.search(self._process.stderr))

        wait_until(is_up, lambda: f"racecar listens; it said {self._process.stderr}")
        found = LISTENING.search(self._process.stderr)
        assert found, f"racecar did not start: {self._process.stderr}"
        return int(found[1])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        return self._process.stderr

    def reasons(self) -> list[str]:
        """Stop, and give the reasons of everything that was not forwarded in order."""
        self.stop()
        flows = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [flow["reason"] for flow in flows if flow["reason"] != "NONE"]

    def pss_kb(self) -> int:
        """What the process holds in memory."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        assert found
        return int(found[1])

    def stop(self) -> None:
        """Drains; a bug in it shows as a traceback or another code than 0. Once stopped it stays so."""
        if self._process.is_stopped:
            return
        code, said = self._process.stop()
        assert "Traceback" not in said, said
        assert code == 0, f"racecar ended with {code}: {said}"
