"""Which paths are read alike by every server, and into what they are brought."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racecar.policy.paths import MAX_READINGS, Examined, examine, readings
from racecar.policy.reasons import Reason

NORMAL = {
    b"/": b"/",
    b"/jobs": b"/jobs",
    b"/jobs/": b"/jobs/",
    b"/jobs?x=1": b"/jobs?x=1",
    b"/jobs?": b"/jobs?",
    b"/a.b/c..d/e...": b"/a.b/c..d/e...",
    b"/...": b"/...",
    b"/.well-known/x": b"/.well-known/x",
    b"//jobs": b"/jobs",
    b"/a//b///c": b"/a/b/c",
    b"/a//": b"/a/",
    b"/a//?": b"/a/?",
    b"/a//?x=1": b"/a/?x=1",
    b"//": b"/",
    b"/a/b/.": b"/a/b/",
    b"/a/./b": b"/a/b",
    b"/a/../b": b"/b",
    b"/../../b": b"/b",
    b"/a/.": b"/a/",
    b"/a/..": b"/",
    b"/..": b"/",
    b"/a/b/../../c": b"/c",
    b"/%6aobs": b"/jobs",
    b"/%7Euser%2D%5f": b"/~user-_",
    b"/a%20b": b"/a%20b",
    b"/%c3%a9": b"/%C3%A9",
    b"/%3f%23": b"/%3F%23",
    b"/a%252fb": b"/a%252fb",
    b"/a;v=1/b": b"/a;v=1/b",
    b"/a%3bb": b"/a%3Bb",
    b"/jobs?next=/../%2e%2e/%2f%5c//x;y": b"/jobs?next=/../%2e%2e/%2f%5c//x;y",
    b"/q?p=100%": b"/q?p=100%",
    b"/a?b?c": b"/a?b?c",
    b"/a/../b?c/../d": b"/b?c/../d",
    b"/a|b^{c}": b"/a|b^{c}",
}

REFUSED_AS_ENCODING = [
    b"/a%2fb",
    b"/a%2Fb",
    b"/a%5cb",
    b"/a%5Cb",
    b"/%2e%2e/b",
    b"/.%2E/b",
    b"/a%2eb",
    b"/jobs/..;/applicants",
    b"/jobs/..;x=y/applicants",
    b"/jobs/.;/applicants",
    b"/jobs/;/../applicants",
    b"/jobs/;x/applicants",
    b"/jobs/..%3b/applicants",
    b"/jobs/..%3B",
    b"/;/applicants",
    b"/jobs//../applicants",
    b"/%c0%af",
    b"/%c0%ae%c0%ae/",
    b"/%e0%80%af",
    b"/%f0%80%80%af",
    b"/%ed%a0%80",
    b"/%f4%90%80%80",
    b"/%ff",
    b"/%c3",
    b"/%c3/%a9",
    b"/%80",
]

REFUSED_AS_MALFORMED = [
    b"/a%00",
    b"/a%00b?x",
    b"/a#b",
    b"/a?b#c",
    b"/a\\b",
    b"/a/..\\b",
    b"/a?b\\c",
    b"/a b",
    b"/a\tb",
    b"/a\x00b",
    b"/a\x7f",
    b"/\xc3\xa9",
    b"/a?\xff",
    b"/a\n",
    b"/a%",
    b"/a%2",
    b"/a%g1",
    b"/%u002f",
    b"/a%2?f",
    b" /a",
]

OTHER_FORMS = [b"", b"*", b"?x", b"jobs", b"http://h/x", b"h:80", b"../x"]


@pytest.mark.parametrize(("target", "normal"), NORMAL.items())
def test_paths_have_one_normal_form(target: bytes, normal: bytes) -> None:
    path, mark, query = target.partition(b"?")
    assert examine(target) == (Reason.NONE, path, normal.partition(b"?")[0], mark + query, frozenset())


@pytest.mark.parametrize("target", REFUSED_AS_ENCODING)
def test_encodings_that_servers_read_differently_are_refused(target: bytes) -> None:
    assert examine(target).needs


@pytest.mark.parametrize("target", REFUSED_AS_MALFORMED)
def test_bytes_that_no_path_may_hold_are_malformed(target: bytes) -> None:
    assert examine(target) == Examined(Reason.HTTP_MALFORMED)


@pytest.mark.parametrize("target", OTHER_FORMS)
def test_only_the_origin_form_is_a_path(target: bytes) -> None:
    assert examine(target) == Examined(Reason.HTTP_TARGET_FORM)


FORMS: dict[bytes, tuple[set[bytes], set[bytes]]] = {
    b"/a%2fb": ({b"slash"}, {b"/a%2fb", b"/a%2Fb", b"/a/b"}),
    b"/a/..%2fb": ({b"slash"}, {b"/a/..%2fb", b"/a/..%2Fb", b"/a/../b", b"/b"}),
    b"/a%5c..%5cb": ({b"backslash"}, {b"/a%5c..%5cb", b"/a%5C..%5Cb", b"/a/../b", b"/b"}),
    b"/a/%2e%2e": ({b"dot"}, {b"/a/%2e%2e", b"/a/%2E%2E", b"/a/..", b"/"}),
    b"/a/%2e%2e%2fb": (
        {b"dot", b"slash"},
        {b"/a/%2e%2e%2fb", b"/a/%2E%2E%2Fb", b"/a/%2E%2E/b", b"/a/..%2Fb", b"/a/../b", b"/b"},
    ),
    b"/a/..;x/b": ({b"params"}, {b"/a/..;x/b", b"/a/../b", b"/b"}),
    b"/a;v/..;x/b;w": ({b"params"}, {b"/a;v/..;x/b;w", b"/a;v/../b;w", b"/b;w", b"/a/../b", b"/b"}),
    b"/a/%2e%2e;x/b": (
        {b"dot", b"params"},
        {b"/a/%2e%2e;x/b", b"/a/%2E%2E;x/b", b"/a/%2E%2E/b", b"/a/..;x/b", b"/a/../b", b"/b"},
    ),
    b"/a/..%c0%afb": ({b"bytes"}, {b"/a/..%c0%afb", b"/a/..%C0%AFb", b"/a/../b", b"/b", b"/a/..b"}),
    b"/a/.%ff./b": ({b"bytes"}, {b"/a/.%ff./b", b"/a/.%FF./b", b"/a/../b", b"/b"}),
    b"/%c3%a9%c3": ({b"bytes"}, {b"/%c3%a9%c3", b"/%C3%A9%C3", b"/%C3%A9"}),
    b"/%c1%81%c0%bf": ({b"bytes"}, {b"/%c1%81%c0%bf", b"/%C1%81%C0%BF", b"/A%3F", b"/"}),
    b"/%e0%83%a9": ({b"bytes"}, {b"/%e0%83%a9", b"/%E0%83%A9", b"/%C3%A9", b"/"}),
    b"/a//../b": ({b"slash"}, {b"/a//../b", b"/a/../b", b"/a/b", b"/b"}),
    b"/a%2f/../b": ({b"slash"}, {b"/a%2f/../b", b"/a%2F/../b", b"/a//../b", b"/a/../b", b"/b", b"/a/b"}),
    b"/a/..%2f%2fb": (
        {b"slash"},
        {b"/a/..%2f%2fb", b"/a/..%2F%2Fb", b"/a/..//b", b"//b", b"/a/../b", b"/b"},
    ),
    b"//a": (set(), {b"//a", b"/a"}),
    b"/a/../b": (set(), {b"/a/../b", b"/b"}),
    b"/a/..//b": (set(), {b"/a/..//b", b"//b", b"/a/../b", b"/b"}),
    b"//%61/./b": (set(), {b"//%61/./b", b"//a/./b", b"//a/b", b"/a/./b", b"/a/b"}),
    b"/%c3%a9": (set(), {b"/%c3%a9", b"/%C3%A9"}),
}


@pytest.mark.parametrize(("target", "expected"), FORMS.items())
def test_every_form_that_servers_may_read(target: bytes, expected: tuple[set[bytes], set[bytes]]) -> None:
    found = readings(examine(target))
    assert found.forms is not None
    assert found.forms[0] == target
    assert {need.encode() for need in found.needs} == expected[0]
    assert set(found.forms) == expected[1]


@pytest.mark.parametrize("target", [b"/%2f%5c%2e%c0%ae%ff/..;x/b;y", b"/a%c0%80"])
def test_paths_with_too_many_readings_or_a_hidden_nul_have_no_forms(target: bytes) -> None:
    assert readings(examine(target)).forms is None


@pytest.mark.parametrize("piece", [b"/%2e%2e%2f%5c;x", b"%c0%ae", b"%ff", b"/..;", b"%2f.", b"//.."])
def test_forms_of_long_paths_take_bounded_time(piece: bytes) -> None:
    started = time.perf_counter()
    found = readings(examine(b"/" + piece * (8192 // len(piece))))
    assert time.perf_counter() - started < 0.5
    assert len(found.forms or ()) <= 5 * MAX_READINGS + 1


PIECES = st.sampled_from(
    [
        b"/",
        b".",
        b"..",
        b"a",
        b"B",
        b"%",
        b"%2",
        b"%41",
        b"%2f",
        b"%2e",
        b"%c3",
        b"%a9",
        b"%3b",
        b";",
        b"?",
        b"#",
        b"\\",
        b"x=1",
    ]
)


@given(st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)) | st.binary(max_size=20))
def test_the_normal_form_is_a_fixed_point_without_dot_or_empty_segments(target: bytes) -> None:
    examined = examine(target)
    if examined.reason is not Reason.NONE:
        assert examined == Examined(examined.reason)
        return
    normal = examined.normal
    if not examined.needs:
        assert examine(normal + examined.query) == examined._replace(path=normal)
    assert normal.startswith(b"/")
    segments = normal.split(b"/")[1:]
    assert b"" not in segments[:-1]
    assert not {b".", b".."} & set(segments)
    assert examined.path + examined.query == target
    forms = readings(examined)
    assert forms.needs >= examined.needs
    assert forms.forms is None or {examined.path, normal} <= set(forms.forms)
    if not examined.needs:
        assert forms.needs == examined.needs
        assert forms.forms is not None


@pytest.mark.parametrize("piece", [b"/a", b"/..", b"//", b"%41", b"/.", b"a;", b"%c3%a9"])
def test_long_paths_take_linear_time(piece: bytes) -> None:
    started = time.perf_counter()
    examine(b"/" + piece * (8192 // len(piece)) + b"|")
    assert time.perf_counter() - started < 0.2
