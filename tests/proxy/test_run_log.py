"""The access log of `racecar run --no-bpf`, from real connections: by its schema, complete, and in nobody's way."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytestmark = pytest.mark.slow

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).resolve().parents[2] / "docs/flow.schema.json").read_text())
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: x\r\n\r\n"
ALLOWED = b"GET /jobs?token=secret HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def answer_all(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed: the test is over
        while True:
            connection, _peer = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    received = b""
    with connection, contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            received += piece
            while b"\r\n\r\n" in received:
                received = received.partition(b"\r\n\r\n")[2]
                connection.sendall(ANSWER)


@pytest.fixture
def upstream() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_all, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextlib.contextmanager
def running(
    tmp_path: Path, upstream: int, log: str, *extra: str, direction: str = "egress"
) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """The port that it serves on; it is asked to stop at the end."""
    ports = [{"ports": [{"port": str(upstream), "protocol": "TCP"}]}]
    ports[0]["rules"] = {"http": [{"method": "GET", "path": "/jobs.*"}]}  # type: ignore[assignment]
    peer = {"toCIDR": ["127.0.0.1/32"]} if direction == "egress" else {"fromEntities": ["host"]}
    spec = {"endpointSelector": {"matchLabels": {"app": "client"}}, direction: [peer | {"toPorts": ports}]}
    policy = tmp_path / "policy.json"
    kind = {"apiVersion": "racecar.io/v1", "kind": "RacecarPolicy", "metadata": {"name": "test"}}
    policy.write_text(json.dumps(kind | {"spec": spec}))
    command = [sys.executable, "-m", "racecar.proxy.cli", "run", "--no-bpf", "--listen", "127.0.0.1:0"]
    command += ["--upstream", f"127.0.0.1:{upstream}", "--policy", str(policy), "--labels", "app=client"]
    command += ["--direction", direction, "--access-log", log, *extra]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"listening on 127\.0\.0\.1:([0-9]+)", line):
                    yield int(found[1]), process
                    break
        finally:
            process.terminate()


def call(port: int, requests: bytes) -> bytes:
    """Send everything and read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        sending = threading.Thread(target=client.sendall, args=(requests,))
        sending.start()
        answers = b""
        while piece := client.recv(1 << 20):
            answers += piece
        sending.join()
    return answers


def flows(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_every_flow_keeps_to_the_schema_and_knows_its_client(tmp_path: Path, upstream: int, direction: str) -> None:
    log = tmp_path / "access.log"
    with running(tmp_path, upstream, str(log), direction=direction) as (port, _process):
        call(port, ALLOWED + DENIED + LAST)
        call(port, b"\x16\x03\x01\x00\x05hello")
    seen = flows(log)
    for flow in seen:
        VALIDATOR.validate(flow)
        assert flow["traffic_direction"] == direction.upper()
        assert flow["IP"]["source"] == "127.0.0.1"
        assert "process" not in flow
    requests = [flow for flow in seen if flow["Type"] == "L7"]
    assert sorted((flow["reason"], flow["l7"]["http"]["url"]) for flow in requests) == [
        ("HTTP_NO_RULE", "/applicants"),
        ("HTTP_TLS", ""),
        ("NONE", "/jobs"),
        ("NONE", "/jobs?redacted"),
    ]
    (denied,) = (flow for flow in requests if flow["reason"] == "HTTP_NO_RULE")
    (near,) = denied["racecar"]["nearest"]
    assert (near["rule"]["policy"], near["field"]) == ("test", ["path"])
    ports = {flow["l4"]["TCP"]["source_port"] for flow in seen}
    assert len(ports) == 2  # of two connections, which have no lines of their own: they ended in order
    assert len(seen) == 4
    assert "secret" not in log.read_text()


def test_audit_names_the_reason_and_the_nearest_rule(tmp_path: Path, upstream: int) -> None:
    log = tmp_path / "access.log"
    with running(tmp_path, upstream, str(log), "--audit") as (port, _process):
        assert call(port, DENIED + LAST).count(b"200 OK") == 2
    (flow,) = (flow for flow in flows(log) if flow["verdict"] == "AUDIT")
    VALIDATOR.validate(flow)
    assert (flow["reason"], flow["l7"]["http"]["code"]) == ("HTTP_NO_RULE", 200)
    assert [near["field"] for near in flow["racecar"]["nearest"]] == [["path"]]


def test_a_flood_of_denials_is_in_the_log_to_the_last(tmp_path: Path, upstream: int) -> None:
    log, count = tmp_path / "access.log", 20_000
    with running(tmp_path, upstream, str(log)) as (port, _process):
        assert call(port, DENIED * count + LAST).count(b"HTTP/1.1 403") == count
    denied = [flow for flow in flows(log) if flow["verdict"] == "DROPPED"]
    assert len({flow["uuid"] for flow in denied}) == len(denied) == count


def test_a_log_that_nobody_reads_holds_up_nothing_and_the_loss_is_told(tmp_path: Path, upstream: int) -> None:
    count = 30_000  # more than the 16 MB that may wait
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with running(tmp_path, upstream, str(tmp_path / "fifo")) as (port, process):
        assert call(port, DENIED * count + LAST).count(b"HTTP/1.1 403") == count
        process.terminate()
        _, errors = process.communicate(timeout=20)
    os.close(reader)
    assert "lines were dropped" in errors
