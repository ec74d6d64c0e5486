"""Both sides hold the same rules, and what the checking client and /proc tell is read right."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.checks import LogReader, expected_body, log_problems
from benchmarks.configs import BODIES, SMALL_BODY, envoy_config, nginx_config
from benchmarks.machine import machine, versions
from benchmarks.processes import (
    LISTENING,
    body_of,
    busy_seconds,
    cpu_seconds,
    envoy_program,
    free_port,
    parents,
    parse_pss,
    pss_kb,
    tree,
)
from benchmarks.rules import DENIED, RULES, envoy_rbac, racecar_policy
from benchmarks.scenarios import BY_NAME, SCENARIOS, Scenario
from racecar.policy.compile import compile_workload
from racecar.policy.load import load_text

FRESH = BY_NAME["fresh"]
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def allowed(method: str, target: str) -> bool:
    return any(re.fullmatch(rule.method, method) and re.fullmatch(rule.path, target) for rule in RULES)


# --- Rules -----------------------------------------------------------------------------------------------------------


def test_the_rules_allow_every_load_and_refuse_what_the_checks_try() -> None:
    targets = {scenario.target for scenario in SCENARIOS} | {"/items/00000001000000ff"}
    assert all(allowed("GET", target) for target in targets)
    assert not any(allowed(method, target) for method, target in DENIED)


def test_envoy_holds_each_rule_of_racecar() -> None:
    held = []
    for policy in envoy_rbac()["policies"].values():
        (permission,) = policy["permissions"]
        headers = [rule["header"] for rule in permission["and_rules"]["rules"]]
        held.append({each["name"]: each["string_match"]["safe_regex"]["regex"] for each in headers})
    http = json.loads(racecar_policy(80))["spec"]["egress"][0]["toPorts"][0]["rules"]["http"]
    assert held == [{":method": rule["method"], ":path": rule["path"]} for rule in http]
    assert len(held) == len(RULES)


def test_racecar_takes_its_policy() -> None:
    loaded = load_text(racecar_policy(4711).encode(), "policy.yaml")
    assert [str(finding) for finding in loaded.findings if finding.level == "error"] == []
    compiled = compile_workload(loaded.policies, namespace="default", cluster="default", labels={})
    rules = [rule for ruleset in compiled.rulesets for rule in ruleset.http]
    assert len(rules) == len(RULES)


# Not skips: Envoy and nginx come with `make bench`, and only there these are needed.
if importlib.util.find_spec("envoy") or shutil.which("envoy"):

    @pytest.mark.slow
    def test_envoy_takes_its_configuration(tmp_path: Path) -> None:
        config = tmp_path / "envoy.json"
        config.write_text(envoy_config(4711, str(tmp_path / "access.log")))
        command = [envoy_program(), "--mode", "validate", "--config-path", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


if shutil.which("nginx", path=PATH):

    @pytest.mark.slow
    def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
        config = tmp_path / "nginx.conf"
        config.write_text(nginx_config(str(tmp_path), free_port(), None))
        program = shutil.which("nginx", path=PATH) or ""
        command = [program, "-t", "-p", str(tmp_path), "-c", str(config), "-e", "stderr"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


def test_nginx_as_root_is_told_a_user_and_only_then() -> None:
    assert "user nobody nogroup;" in nginx_config("/p", 1, "nobody nogroup")
    assert "user " not in nginx_config("/p", 1, None)


# --- Bodies and logs -------------------------------------------------------------------------------------------------


def test_bodies_have_their_size_and_no_piece_twice() -> None:
    assert len(SMALL_BODY) == BY_NAME["keepalive"].body_bytes == 98
    body = body_of(BODIES["10k"])
    assert len(body) == 10240
    assert len({body[at : at + 16] for at in range(0, len(body), 16)}) == 640
    assert expected_body(BY_NAME["10k"]) == body
    assert expected_body(FRESH) == SMALL_BODY.encode()


def fresh_line(number: int) -> str:
    return json.dumps({"url": f"/items/{1:08x}{number:08x}"}) + "\n"


def reader(path: Path, scenario: Scenario) -> LogReader:
    path.touch()
    log = LogReader(path)
    log.begin(scenario)
    return log


def test_the_log_is_counted_however_it_arrives(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = reader(path, FRESH)
    text = "".join(fresh_line(number) for number in range(4))
    path.write_text(text[:70])
    log.wait_for(1)
    path.write_text(text)
    log.wait_for(4)
    assert (log.calls, len(log.fresh)) == (4, 4)
    assert log_problems(log, 4, FRESH) == []


def test_both_sides_lines_count_and_other_lines_do_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = reader(path, BY_NAME["keepalive"])
    ours = '{"Type":"L7","l7":{"http":{"method":"GET","url":"/jobs/1"}}}\n'
    theirs = '[2026] "GET /jobs/1 HTTP/1.1" 200 - 0 98 0 - "-" "-" "-" "127.0.0.1:1" "127.0.0.1:2"\n'
    others = '{"Type":"L3_L4"}\n"GET /jobs/12 HTTP/1.1"\n"GET /a/jobs/1 HTTP/1.1"\n'
    path.write_text(ours + others + theirs + others)
    log.wait_for(2)
    assert log.calls == 2


def test_a_new_round_counts_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = reader(path, FRESH)
    path.write_text(fresh_line(1) * 3)
    log.wait_for(3)
    log.begin(FRESH)
    assert (path.read_text(), log.calls, log.fresh) == ("", 0, set())
    path.write_text(fresh_line(2))
    log.wait_for(1)
    assert (log.calls, len(log.fresh)) == (1, 1)


def test_heads_that_come_twice_and_answers_without_a_line_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = reader(path, FRESH)
    path.write_text(fresh_line(1) * 2 + fresh_line(2))
    log.wait_for(3)
    assert log_problems(log, 3, FRESH) == ["2 distinct paths in 3 requests"]
    assert log_problems(log, 4, BY_NAME["keepalive"]) == ["3 calls in the access log for 4 answers"]


# --- Processes -------------------------------------------------------------------------------------------------------


def test_the_port_is_read_from_what_racecar_says() -> None:
    for said in (b"racecar: listening on 127.0.0.1:4711\n", b"racecar: warning: x\nracecar: listening on [::1]:4711\n"):
        found = LISTENING.search(said)
        assert found is not None
        assert found[1] == b"4711"
    assert LISTENING.search(b"racecar: error: listening on 127.0.0.1:4711: in use") is None


def test_a_tree_is_all_descendants() -> None:
    assert tree(10, {10: 1, 11: 10, 12: 11, 13: 12, 20: 1, 21: 20}) == [10, 11, 12, 13]
    assert os.getpid() in tree(os.getppid(), parents())


def test_proportional_memory_is_read() -> None:
    assert parse_pss("Rss:   900 kB\nPss:                 512 kB\nPss_Dirty:   4 kB\n") == 512
    with pytest.raises(ValueError, match="no Pss"):
        parse_pss("Rss: 1 kB\n")
    assert pss_kb([os.getpid()]) > 1000


def test_processor_time_only_grows() -> None:
    user, system = cpu_seconds([os.getpid()])
    busy, steal = busy_seconds()
    sum(number * number for number in range(100_000))
    assert cpu_seconds([os.getpid()]) >= (user, system)
    assert busy_seconds()[0] >= busy > user
    assert steal >= 0
    assert cpu_seconds([2**22 + 1]) == (0, 0)  # above the largest pid: nobody


def test_versions_are_told_and_no_error_of_git_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"wrk": "wrk debian/4.1.0-3+b2 [epoll]", "nginx": "nginx version: nginx/1.22.1", "git": "fatal: dubious"}
    said["envoy"] = "/bin/envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL"
    monkeypatch.setattr("benchmarks.machine.find", lambda name: name)
    monkeypatch.setattr("benchmarks.machine.envoy_program", lambda: "envoy")
    monkeypatch.setattr("benchmarks.machine.said", lambda command: said[command[0]])
    told = versions()
    wanted = {"wrk": "4.1.0-3+b2", "nginx": "1.22.1", "envoy": "1.40.0", "commit": "unknown"}
    assert {name: told[name] for name in wanted} == wanted
    said["git"] = "0123456789ab-dirty"
    assert versions()["commit"] == "0123456789ab-dirty"


def test_the_machine_is_told() -> None:
    told = machine()
    assert told["cores"] == os.cpu_count()
    assert told["kernel"] == os.uname().release
    assert told["memory_gb"]
