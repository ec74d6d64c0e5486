"""The access log of real runs: complete, true, by its schema (the harness checks each line), and in nobody's way."""

import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from harness import (
    FLOW,
    LABELS,
    EchoServer,
    HttpServer,
    Result,
    UdpServer,
    cidr,
    http,
    policy,
    relayed,
    run_exec,
    workload,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

ONE_OF_EACH = r"""
def call(port, target):
    s = dial("127.0.0.1", port)
    s.sendall(f"GET {target} HTTP/1.1\r\nHost: API.example\r\nConnection: close\r\n\r\n".encode())
    got = b""
    while piece := s.recv(65536):
        got += piece
    return int(got[9:12])
say(call(web, "/jobs?token=secret"), call(web, "/applicants?token=secret"))
say(exchange(dial("127.0.0.1", echo), b"relayed"), exchange(dial("127.0.0.1", native), b"native!"))
say(attempt(dial, "127.0.0.1", refused), attempt(dial, "192.0.2.77", 80), attempt(dial, "::1", refused))
say(attempt(dial, "127.0.0.1", refused, socket.SOCK_DGRAM))
"""


def run_one_of_each(*extra: str) -> tuple[Result, dict[str, int]]:
    with HttpServer() as web, EchoServer() as echo, EchoServer() as native, EchoServer() as refused:
        ports = {"web": web.port, "echo": echo.port, "native": native.port, "refused": refused.port}
        rules = policy(
            http("127.0.0.1", web.port, calls=[("GET", "/jobs[?].*")]),
            relayed("127.0.0.1", echo.port),
            cidr("127.0.0.1", native.port),
        )
        result = run_exec(rules, workload(ONE_OF_EACH, **ports), extra=extra)
    assert result.code == 0, result.stderr
    return result, ports


def test_every_connection_request_and_refusal_has_its_flow() -> None:
    result, ports = run_one_of_each()
    assert result.said == [[200, 403], ["relayed", "native!"], ["EPERM"] * 3, "EPERM"]
    seen = [
        (
            flow["Type"],
            flow["verdict"],
            flow["racecar"]["path"],
            flow["racecar"]["kind"],
            flow["reason"],
            next(iter(flow["l4"].values()))["destination_port"],
        )
        for flow in result.flows
    ]
    assert sorted(seen, key=str) == sorted(
        [
            ("L7", "FORWARDED", "relay", "http", "NONE", ports["web"]),
            ("L7", "DROPPED", "relay", "http", "HTTP_NO_RULE", ports["web"]),
            ("L3_L4", "FORWARDED", "relay", "tcp", "NONE", ports["echo"]),
            ("L3_L4", "FORWARDED", "native", "l4", "NONE", ports["native"]),
            ("L3_L4", "DROPPED", "hook", "l4", "DEFAULT_DENY", ports["refused"]),  # IPv4
            ("L3_L4", "DROPPED", "hook", "l4", "DEFAULT_DENY", ports["refused"]),  # IPv6
            ("L3_L4", "DROPPED", "hook", "l4", "DEFAULT_DENY", ports["refused"]),  # UDP
            ("L3_L4", "DROPPED", "hook", "l4", "DEFAULT_DENY", 80),
        ],
        key=str,
    )
    assert {flow["process"]["exe"] for flow in result.flows if flow["racecar"]["kind"] == "http"} == {
        os.path.realpath("/usr/bin/python3")
    }
    assert len({flow["uuid"] for flow in result.flows}) == len(result.flows)
    assert {flow["source"]["labels"][0] for flow in result.flows} == {LABELS}


def test_bytes_are_counted_each_way() -> None:
    result, ports = run_one_of_each()
    requests = [flow for flow in result.flows if flow["Type"] == "L7"]
    assert len({request["socket_cookie"] for request in requests}) == 2  # of two connections, which tell no more
    assert all(request["racecar"]["bytes_sent"] > 30 < request["racecar"]["bytes_received"] for request in requests)
    sizes = {
        flow["l4"]["TCP"]["destination_port"]: flow["racecar"]
        for flow in result.flows
        if flow["Type"] == "L3_L4" and flow["verdict"] == "FORWARDED"
    }
    assert (sizes[ports["echo"]]["bytes_sent"], sizes[ports["echo"]]["bytes_received"]) == (7, 7)
    # TCP itself counts the SYN and the FIN of a native connection.
    assert 7 <= sizes[ports["native"]]["bytes_sent"] <= 9
    assert 7 <= sizes[ports["native"]]["bytes_received"] <= 8


def test_neither_log_nor_terminal_keeps_a_query() -> None:
    result, _ports = run_one_of_each()
    assert "secret" not in result.stderr
    assert "secret" not in json.dumps(result.flows)
    urls = {flow["l7"]["http"]["url"] for flow in result.flows if "l7" in flow}
    assert urls == {"/jobs?redacted", "/applicants?redacted"}


def test_a_denial_is_told_with_the_event_id_of_its_flow() -> None:
    result, ports = run_one_of_each()
    (denied,) = (flow for flow in result.flows if flow["reason"] == "HTTP_NO_RULE")
    assert f"denied GET /applicants on 127.0.0.1:{ports['web']}" in result.stderr
    assert f"(event {denied['uuid']})" in result.stderr
    assert f"denied UDP 127.0.0.1:{ports['refused']}" in result.stderr
    assert len(result.stderr.splitlines()) == 5


def test_a_raw_socket_has_a_flow_without_an_address() -> None:
    code = "say(attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1))"
    result = run_exec(policy(cidr("127.0.0.1", 1)), workload(code), extra=["--keep-privileges"])
    assert result.said == ["EPERM"]
    (flow,) = result.flows
    assert (flow["reason"], flow["l4"], "IP" in flow) == ("RAW_SOCKET", {"ICMPv4": {}}, False)
    assert "refused a raw socket to python3[" in result.stderr


def test_audit_lets_pass_and_says_so() -> None:
    with HttpServer() as web, UdpServer(echo=True) as datagrams:
        code = """
        s = dial("127.0.0.1", web)
        s.sendall(b"GET /no HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        say(s.recv(15).decode())
        u = dial("127.0.0.1", datagrams, socket.SOCK_DGRAM)
        u.send(b"x")
        say(u.recv(10).decode())
        """
        result = run_exec(
            policy(http("127.0.0.1", web.port)),
            workload(code, web=web.port, datagrams=datagrams.port),
            extra=["--audit"],
        )
    assert result.code == 0, result.stderr
    assert result.said == ["HTTP/1.1 200 OK", "x"]
    audited = {(flow["Type"], flow["reason"]) for flow in result.flows if flow["verdict"] == "AUDIT"}
    assert audited == {("L7", "HTTP_NO_RULE"), ("L3_L4", "DEFAULT_DENY")}
    assert result.reasons() == []


def exec_with_log(log: str, argv: list[str], rules: Path, stdout: int) -> subprocess.Popen[bytes]:
    options = ["--policy", str(rules), "--labels", LABELS, "--access-log", log]
    command = [sys.executable, "-m", "racecar.proxy.cli", "exec", *options, "--", *argv]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)


REFUSED = """
for _ in range(500):
    attempt(dial, "192.0.2.77", 80)
print("done", flush=True)
"""


def test_the_log_and_the_commands_output_share_a_file(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    run = exec_with_log("-", workload(REFUSED), policy(cidr("127.0.0.1", 1)), out)
    os.close(out)
    run.communicate(timeout=20)
    lines = (tmp_path / "out").read_text().splitlines()
    assert run.returncode == 0
    assert len(lines) == 501
    assert lines.count("done") == 1
    for line in lines:
        if line != "done":
            FLOW.validate(json.loads(line))


@pytest.mark.parametrize("log", ["a full disk", "a pipe that nobody reads"])
def test_a_log_that_takes_nothing_holds_up_nothing_and_the_loss_is_told(tmp_path: Path, log: str) -> None:
    path, reader = "/dev/full", -1
    if log != "a full disk":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    run = exec_with_log(path, workload(REFUSED), policy(cidr("127.0.0.1", 1)), subprocess.PIPE)
    out, errors = run.communicate(timeout=20)
    if reader >= 0:
        os.close(reader)
    assert (run.returncode, out) == (0, b"done\n")
    assert b"the access log is incomplete" in errors


def test_times_and_addresses_are_real() -> None:
    result, _ports = run_one_of_each()
    for flow in result.flows:
        if "IP" in flow:
            assert ip_address(flow["IP"]["destination"]).version == int(flow["IP"]["ipVersion"][-1])
        assert 0 <= flow["racecar"]["duration_ms"] < 20_000
