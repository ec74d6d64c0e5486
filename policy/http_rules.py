"""Understand `rules.http`: one HTTP rule, and what is doubtful about it."""

import re

from racecar.policy.document import Node
from racecar.policy.fields import Fields, Report, fields, items, string, strings
from racecar.policy.findings import Finding, shown
from racecar.policy.model import ENCODINGS, Encoding, HttpMatch, Policy, RuleRef
from racecar.policy.regex import SYNTAX, PatternError, compile_pattern

_FIELDS = ("method", "path", "host", "headers")
_RACECAR_FIELDS = ("pathOnly", "query", "allowBody", "allowEncoded", "websocket", "connect")
_LATER = ("headerMatches",)
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_LETTER = re.compile(r"[A-Za-z]")
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?[^\]]*\]")
_OPEN_DOT = re.compile(r"\.(?![*+?{])")
# End points whose clients send a body with GET or DELETE: searches of Elasticsearch and its kin, calls in bulk.
_BODY_PATH = re.compile(r"_(?:m?search|count|mget|explain|validate|scroll|field_caps)\b|bulk|batch", re.IGNORECASE)
_WEBSOCKET_PATH = re.compile(r"websocket|socket\\?\.io|sockjs|(?:^|/)wss?(?![-\w])", re.IGNORECASE)
_OVERRIDES = ("x-http-method-override", "x-original-url", "x-rewrite-url")


def read_http(report: Report, node: Node, where: str, ref: RuleRef) -> HttpMatch | None:
    """One rule; None if it is no mapping. Whatever is wrong with it is in the report."""
    is_racecar = ref.kind == "RacecarPolicy"
    known = (*_FIELDS, *_RACECAR_FIELDS) if is_racecar else _FIELDS
    http = fields(report, node, where, known, _LATER)
    if http is None:
        return None
    match = HttpMatch(
        method=_pattern(report, http, "method", where),
        path=_pattern(report, http, "path", where),
        ref=ref,
        host=_pattern(report, http, "host", where),
        headers=_headers(report, http.get("headers"), f"{where}.headers"),
        path_only=http.boolean("pathOnly"),
        query=_pattern(report, http, "query", where),
        allow_body=http.boolean("allowBody"),
        websocket=http.boolean("websocket"),
        connect=http.boolean("connect"),
        encoded=_encodings(report, http.get("allowEncoded"), f"{where}.allowEncoded"),
    )
    only = http.get("pathOnly")
    if only is not None and match.path_only and match.path is None:
        report.error(only, f"{where}: pathOnly needs path")
    _advise(report, http, match)
    return match


def _pattern(report: Report, http: Fields, key: str, where: str) -> str | None:
    node, text = http.get(key), http.string(key)
    if node is None or text is None:
        return None
    if not text and key != "query":  # where it means no query at all
        report.warning(node, f"{where}.{key} is empty: it matches everything, as if absent", "empty-pattern")
        return None
    try:
        compile_pattern(text)
    except PatternError as error:
        report.error(node, f"{where}.{key} {shown(text)} is not an RE2 pattern: {error}")
        return None
    return text


def _headers(report: Report, node: Node | None, where: str) -> tuple[tuple[str, str | None], ...]:
    found = []
    for place, item in items(report, node, where):
        if item.kind == "mapping":  # `- X-A: v`, which looks like what is meant
            report.error(item, f'{place} must be a string, not a mapping: write "NAME: VALUE" in quotes')
        elif (text := string(report, item, place)) is not None:
            found.append(_header(report, item, text))
    return tuple(dict.fromkeys(header for header in found if header is not None))


def _header(report: Report, node: Node, text: str) -> tuple[str, str | None] | None:
    """`NAME: VALUE`, or `NAME` for a header that must be there: cut at the first space, as Cilium does."""
    before, space, value = text.partition(" ")
    name = before.rstrip(":") if space else before
    if name.startswith(":"):
        report.error(node, f"{shown(text)} names no header: use method, path or host")
        return None
    if ":" in name and not space:
        asked = f"asks for a header of that whole name, which no request has; write {_spaced(name)}"
        report.warning(node, f"{shown(text)} {asked}", "header-colon")
    elif not _TOKEN.fullmatch(name):
        report.error(node, f"{shown(text)} names no header: NAME, or NAME: VALUE")
        return None
    if not space:
        return name.lower(), None
    if value.strip(" \t") != value:
        report.warning(node, f"{shown(text)} never matches: values come without outer space", "header-space")
    elif _LETTER.search(value):
        report.warning_once(
            node, f"{shown(text)}: values of headers compare exactly, letter case included", "header-case"
        )
    return name.lower(), value


def _spaced(text: str) -> str:
    name, _, value = text.partition(":")
    return shown(f"{name}: {value}" if value else name)


def _encodings(report: Report, node: Node | None, where: str) -> frozenset[Encoding]:
    found: set[Encoding] = set()
    for item, text in strings(report, node, where):
        known = next((encoding for encoding in ENCODINGS if encoding == text), None)
        if known is None:
            report.error(item, f"{where} {shown(text)} is unknown; allowed here: {', '.join(ENCODINGS)}")
        else:
            found.add(known)
    return frozenset(found)


def _advise(report: Report, http: Fields, match: HttpMatch) -> None:
    """Warn where a rule means less, or more, than it seems to, and where racecar is stricter than Cilium."""
    method, path, host = http.get("method"), http.get("path"), http.get("host")
    if path is not None and match.path is not None:
        _advise_path(report, path, match.path, match)
        _advise_grants(report, http, path, match)
    if host is not None and match.host is not None and _OPEN_DOT.search(_ESCAPE_OR_CLASS.sub("", match.host)):
        text = f"host {shown(match.host)}: a dot matches any character; write \\. for a dot"
        report.warning(host, text, "host-dot")
    if method is not None and "CONNECT" in (match.method or "") and http.get("connect") is None:
        report.warning(method, f"CONNECT is refused; {_granted_by('connect', match)}", "connect-refused")


def _advise_path(report: Report, node: Node, path: str, match: HttpMatch) -> None:
    if match.path_only or not SYNTAX.isdisjoint(path):
        return
    if match.query:
        report.warning(node, "path is matched with the query: pathOnly: true leaves it to `query`", "path-exact")
    else:
        text = f"path {shown(path)} allows exactly this, without sub-paths and without a query"
        report.warning(node, text, "path-exact")


def _advise_grants(report: Report, http: Fields, node: Node, match: HttpMatch) -> None:
    """Judged by the path: most rules for GET and DELETE need neither grant, and a warning on each would be noise."""
    path = match.path or ""
    if http.get("allowBody") is None and _accepts(match.method, b"GET", b"DELETE") and _BODY_PATH.search(path):
        text = f"a body on GET, HEAD or DELETE is refused; {_granted_by('allowBody', match)}"
        report.warning(node, text, "body-refused")
    if http.get("websocket") is None and _accepts(match.method, b"GET") and _WEBSOCKET_PATH.search(path):
        report.warning(node, f"a WebSocket is refused; {_granted_by('websocket', match)}", "websocket-refused")


def _granted_by(field: str, match: HttpMatch) -> str:
    return f"{field}: true{'' if match.ref.kind == 'RacecarPolicy' else ' in a RacecarPolicy'} grants it"


def _accepts(pattern: str | None, *methods: bytes) -> bool:
    return pattern is None or any(compile_pattern(pattern).fullmatch(method) for method in methods)


def override_headers(policies: list[Policy]) -> list[Finding]:
    """One warning, at the first rule on a method or path in a file that asks nothing of headers that change them."""
    matches = [
        match
        for policy in policies
        for rule in (*policy.egress, *policy.ingress)
        for item in rule.ports or ()
        if item.layer7 is not None
        for match in item.layer7.http
    ]
    careful = {match.ref.file for match in matches if any(name in _OVERRIDES for name, _ in match.headers)}
    for match in matches:
        ref = match.ref
        if ref.file not in careful and (match.method is not None or match.path is not None):
            text = (
                "servers that honour X-HTTP-Method-Override, X-Original-URL or X-Rewrite-URL run another call than the "
                "one judged: switch that off in the server"
            )
            return [Finding(ref.file, ref.line, ref.column, "warning", text, "override-headers")]
    return []
