"""Real curl inside a workload: what it was told, as one record a call."""

from typing import Any

from harness import workload

CURL = """
import hashlib, subprocess
def curl(url, *options):
    "exit code, status, the peer that curl believes in, body (its hash if it is long)"
    told = "\\n%{exitcode} %{http_code} %{remote_ip} %{remote_port}"
    command = ["curl", "-q", "-sS", "-g", "--noproxy", "*", "--max-time", "10", "-w", "%{stderr}" + told, *options, url]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    code, status, ip, port = (done.stderr.decode().splitlines() or [""])[-1].split(" ")
    body = done.stdout.decode("latin-1") if len(done.stdout) < 4096 else hashlib.sha256(done.stdout).hexdigest()
    return {"exit": int(code), "status": int(status), "peer": [ip, int(port or 0)], "body": body}
"""


def curling(code: str, **values: Any) -> list[str]:
    """A workload that has `curl(url, *options)`."""
    argv = workload("", **values)
    return [*argv[:-1], argv[-1] + CURL + code]


def host(address: str) -> str:
    """As it stands in a URL."""
    return f"[{address}]" if ":" in address else address
