"""What the programs write is what Python reads: layouts by the compiler, numbers by name, records there and back."""

import re
import shutil
import struct
import subprocess
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from racecar.policy.reasons import Reason
from racecar.policy.tables import HOST, WORLD, Verdict
from racecar.proxy.connections import AUDIT_FLAG
from racecar.redirect import abi
from racecar.redirect.abi import ConnectionRecord, ConnectionState, EventKind, KernelEvent

BPF = Path(__file__).resolve().parents[2] / "redirect/bpf"

# What each element of the Python format is called in C. A prefix length is the first member of every trie's key.
LAYOUTS = {
    "rc_conn": (
        abi.CONNECTION_STRUCT,
        "cookie cgroup_id task_start_ns connected_ns workload generation epoch ruleset rule pid uid flags"
        " address port state protocol comm",
    ),
    "rc_event": (
        abi.EVENT_STRUCT,
        "time_ns cookie cgroup_id task_start_ns bytes_sent bytes_received duration_ns kind reason workload rule pid uid"
        " address source peer port source_port peer_port protocol family comm",
    ),
    "rc_workload": (abi.WORKLOAD_STRUCT, "policy generation enforce_egress audit pending_limit pending"),
    "rc_peer_key": (abi.PEER_KEY_STRUCT, "prefixlen policy scope address"),
    "rc_port_key": (abi.PORT_KEY_STRUCT, "prefixlen policy peer direction protocol port"),
    "rc_port_value": (abi.PORT_VALUE_STRUCT, "verdict ruleset rule"),
    "rc_own_key": (abi.OWN_KEY_STRUCT, "prefixlen address"),
    "rc_config": (abi.CONFIG_STRUCT, "workload listen4_port listen6_port"),
}
# Bytes before the part of a trie's key that a prefix may end in, in bits: added to every prefix length.
FIXED_BITS = {"rc_peer_key": ("address", 64), "rc_port_key": ("port", 80), "rc_own_key": ("address", 0)}


def python_layout(layout: struct.Struct) -> tuple[list[tuple[int, int]], int]:
    """(offset, size) of each element that is no padding, and the size of the whole."""
    found, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format.removeprefix("=")):
        for _ in range(1 if code in "sx" else int(count or 1)):
            size = struct.calcsize(f"={count if code in 'sx' else ''}{code}")
            if code != "x":
                found.append((offset, size))
            offset += size
    return found, layout.size


@pytest.fixture(scope="module")
def c_layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """`sizeof` and `offsetof` of everything above, from a program that includes the programs' own header."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    config = re.search(r"^struct rc_config \{.*?^\};", (BPF / "maps.h").read_text(), re.MULTILINE | re.DOTALL)
    assert config is not None
    lines = [
        "#include <stddef.h>",
        "#include <stdio.h>",
        "#include <linux/types.h>",
        '#include "racecar_abi.h"',
        config.group(),
        "int main(void) {",
    ]
    for name, (_, members) in LAYOUTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for member in members.split():
            lines.append(f'printf("{name}.{member} %zu\\n", offsetof(struct {name}, {member}));')
            lines.append(f'printf("{name}.{member}.size %zu\\n", sizeof(((struct {name} *)0)->{member}));')
    for number in [*enum_names("racecar_abi.h"), "RC_SCOPE_WORLD", "RC_SCOPE_HOST", "RC_ANY_PEER", "RC_CONN_AUDIT"]:
        lines.append(f'printf("{number} %d\\n", (int){number});')
    lines.append("return 0; }")
    folder = tmp_path_factory.mktemp("abi")
    (folder / "layout.c").write_text("\n".join(lines))
    compile_it = ["gcc", "-std=gnu11", "-Wall", "-Werror", f"-I{BPF}", "-o", folder / "layout", folder / "layout.c"]
    subprocess.run(compile_it, check=True)
    printed = subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in printed.splitlines())}


def enum_names(header: str) -> list[str]:
    return re.findall(r"^\t(RC_\w+) = \d+,", (BPF / header).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_structure_has_one_layout(name: str, c_layouts: dict[str, int]) -> None:
    layout, members = LAYOUTS[name]
    in_c = [(c_layouts[f"{name}.{member}"], c_layouts[f"{name}.{member}.size"]) for member in members.split()]
    in_python, size = python_layout(layout)
    assert dict(zip(members.split(), in_python, strict=True)) == dict(zip(members.split(), in_c, strict=True))
    assert size == c_layouts[name]


@pytest.mark.parametrize(("name", "expected"), FIXED_BITS.items())
def test_a_prefix_ends_in_the_last_member_of_its_key(
    name: str, expected: tuple[str, int], c_layouts: dict[str, int]
) -> None:
    member, bits = expected
    assert c_layouts[f"{name}.{member}"] * 8 - 32 == bits
    assert c_layouts[f"{name}.{member}"] + c_layouts[f"{name}.{member}.size"] == c_layouts[name]


def test_every_structure_of_the_header_is_compared() -> None:
    in_header = set(re.findall(r"^struct (\w+) \{", (BPF / "racecar_abi.h").read_text(), re.MULTILINE))
    assert in_header - {"rc_tuple"} == set(LAYOUTS) - {"rc_config"}  # tuples never leave the kernel


@pytest.mark.parametrize(
    ("prefix", "numbers"),
    [
        ("RC_EVENT_", EventKind),
        ("RC_", ConnectionState),
        ("RC_", Verdict),
    ],
)
def test_numbers_have_the_same_names(prefix: str, numbers: type[IntEnum], c_layouts: dict[str, int]) -> None:
    for number in numbers:
        assert c_layouts[prefix + number.name] == number.value


def test_every_kind_of_event_and_state_has_a_name_in_python(c_layouts: dict[str, int]) -> None:
    kinds = {name for name in enum_names("racecar_abi.h") if name.startswith("RC_EVENT_")}
    assert kinds == {f"RC_EVENT_{kind.name}" for kind in EventKind}


def test_scopes_and_flags_have_the_same_numbers(c_layouts: dict[str, int]) -> None:
    assert (c_layouts["RC_SCOPE_WORLD"], c_layouts["RC_SCOPE_HOST"]) == (WORLD, HOST)
    assert (c_layouts["RC_ANY_PEER"], c_layouts["RC_CONN_AUDIT"]) == (0, AUDIT_FLAG)


def test_reasons_of_the_kernel_are_those_of_the_list() -> None:
    text = (BPF / "reasons.h").read_text()
    in_c = {name: int(number) for name, number in re.findall(r"RC_REASON_(\w+) = (\d+),", text)}
    assert in_c == {reason.name: reason.value for reason in Reason if reason < 32}


# --- There and back --------------------------------------------------------------------------------------------------

V4, V6 = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7")
NAME = b"a name of 15 by\0"


@pytest.mark.parametrize("address", [V4, V6, IPv6Address("::1"), IPv4Address("0.0.0.0")])
def test_a_record_says_what_was_written(address: IPv4Address | IPv6Address) -> None:
    raw = abi.CONNECTION_STRUCT.pack(*range(1, 13), abi.mapped(address), abi.swap16(443), 2, 6, NAME)
    assert ConnectionRecord.unpack(raw) == ConnectionRecord(
        *range(1, 13), address, 443, ConnectionState.REDIRECTED, 6, "a name of 15 by"
    )


def test_an_event_says_what_was_written() -> None:
    ports = [abi.swap16(port) for port in (80, 40000, 8080)]
    addresses = [abi.mapped(address) for address in (V4, V6, V4)]
    raw = abi.EVENT_STRUCT.pack(*range(1, 8), 2, *range(9, 14), *addresses, *ports, 17, 10, b"x\0y".ljust(16, b"\xff"))
    assert KernelEvent.unpack(raw) == KernelEvent(
        *range(1, 8), EventKind.DROPPED, *range(9, 14), V4, V6, V4, 80, 40000, 8080, 17, 10, "x"
    )


def test_ports_are_kept_as_packets_have_them() -> None:
    raw = abi.PORT_KEY_STRUCT.pack(96, 1, 2, 0, 6, abi.swap16(0x1234))
    assert raw[-2:] == b"\x12\x34"
    assert [abi.swap16(abi.swap16(port)) for port in (0, 1, 80, 65535)] == [0, 1, 80, 65535]


@pytest.mark.parametrize(
    ("unpack", "layout", "kind_at"),
    [(ConnectionRecord.unpack, abi.CONNECTION_STRUCT, 82), (KernelEvent.unpack, abi.EVENT_STRUCT, 56)],
)
def test_what_this_version_does_not_know_is_an_error(unpack: object, layout: struct.Struct, kind_at: int) -> None:
    assert callable(unpack)
    raw = bytearray(layout.size)
    raw[kind_at] = 99
    with pytest.raises(ValueError, match="99"):
        unpack(bytes(raw))
    for size in (0, layout.size - 1, layout.size + 1):
        with pytest.raises(struct.error):
            unpack(bytes(size))


def test_a_name_that_is_no_text_is_readable_all_the_same() -> None:
    raw = abi.CONNECTION_STRUCT.pack(*range(12), abi.mapped(V4), 0, 0, 6, b"\xff\xfe\x1b")
    assert ConnectionRecord.unpack(raw).comm == "\ufffd\ufffd\x1b"


@pytest.mark.parametrize(
    ("network", "bits"), [("0.0.0.0/0", 96), ("10.0.0.0/8", 104), ("192.0.2.7/32", 128), ("::/0", 0), ("::1/128", 128)]
)
def test_a_prefix_covers_the_sixteen_bytes_of_its_family(network: str, bits: int) -> None:
    assert abi.mapped_bits(ip_network(network)) == bits


def test_an_ipv4_address_is_stored_v4_mapped_and_comes_back() -> None:
    for text in ("192.0.2.7", "255.255.255.255", "2001:db8::7", "::"):
        assert abi.address_of(abi.mapped(ip_address(text))) == ip_address(text)
    assert abi.mapped(V4) == IPv6Address("::ffff:192.0.2.7").packed
