"""Which known bugs a version has, and what the version alone decides about inline verdicts."""

import pytest

from racecar.redirect.kernel_bugs import BUGS, KernelBug, Standing, inline_refusal, parse_version

BUG = KernelBug("CVE-X", "what", ((7, 0, 0), (6, 12, 81), (6, 6, 134)))


@pytest.mark.parametrize(
    ("release", "build", "version"),
    [
        ("6.18.44", "#1 SMP", (6, 18, 44)),
        ("6.12.117+deb12-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1~bpo12+1 (2026-08-01)", (6, 12, 117)),
        ("6.1.0-56-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-08-01)", (6, 1, 192)),
        ("7.1-rc3", "", (7, 1, 0)),
    ],
)
def test_the_stable_release_is_read(release: str, build: str, version: tuple[int, int, int]) -> None:
    assert parse_version(release, build) == version


def test_a_release_without_numbers_has_no_version() -> None:
    assert parse_version("custom") is None
    assert inline_refusal(None) == "the kernel's version cannot be read"


@pytest.mark.parametrize(
    ("running", "standing"),
    [
        ((6, 12, 80), Standing.AFFECTED),
        ((6, 12, 81), Standing.FIXED),
        ((6, 6, 133), Standing.AFFECTED),
        ((7, 1, 3), Standing.FIXED),
        ((7, 0, 0), Standing.FIXED),
        ((6, 13, 2), Standing.UNKNOWN),
        ((5, 15, 200), Standing.UNKNOWN),
    ],
)
def test_versions_are_compared_within_their_branch(running: tuple[int, int, int], standing: Standing) -> None:
    assert BUG.standing(running) is standing


@pytest.mark.parametrize(
    ("running", "says"),
    [
        ((6, 12, 114), None),
        ((6, 12, 117), None),
        ((6, 12, 113), "6.12.113 is below 6.12.114"),
        ((6, 1, 192), "6.1.192 is below 6.6.15"),
        ((6, 18, 44), "CVE-2026-74589 (fixed in 6.18.45)"),
        ((6, 18, 45), "CVE-2026-68399"),
        ((6, 6, 152), "CVE-2026-68399"),
        ((7, 1, 9), "CVE-2026-68399"),
    ],
)
def test_the_version_gate_names_what_keeps_inline_off(running: tuple[int, int, int], says: str | None) -> None:
    refusal = inline_refusal(running)
    assert refusal is None if says is None else says in (refusal or "")


def test_every_bug_has_fixed_releases_in_falling_order() -> None:
    for bug in BUGS:
        assert bug.fixed_in, bug
        assert list(bug.fixed_in) == sorted(bug.fixed_in, reverse=True), bug
