"""The one policy that all cases are judged by. Host names are examples: nothing is looked up."""

LABELS = {"app": "client"}
NAME = "conformance"
# Headers that the rules read: no trailer may bear these names.
JUDGED_HEADERS = frozenset((b"x-token", b"x-tag"))

_TEXT = r"""
apiVersion: racecar.io/v1
kind: RacecarPolicy
metadata: {name: conformance}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toCIDR: [127.0.0.1/32]
    toPorts:
    - ports: [{port: "PORT", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: "/"}
        - {method: "GET|HEAD", path: "/jobs"}
        - {method: "GET|HEAD|DELETE", path: "/jobs/[0-9]+"}
        - {method: POST, path: "/jobs"}
        - {method: GET, path: "/healthz"}
        - {method: GET, path: "/search", pathOnly: true, query: "q=[a-z0-9%]*(&page=[0-9]+)?"}
        - {method: "GET|PUT", path: "/files/.*"}
        - {method: GET, path: "/tenant", host: "blue\\.example"}
        - {method: "GET|PUT", path: "/secret", headers: ["X-Token: letmein"]}
        - {method: GET, path: "/tagged", headers: ["X-Tag"]}
        - {method: GET, path: "/chat", websocket: true}
        - {method: CONNECT, path: "db\\.example:5432", connect: true}
        - {method: CONNECT, path: "shut\\.example:5432"}
        - {method: "GET|HEAD|DELETE", path: "/query", allowBody: true}
        - {method: GET, path: "/slash/.*", allowEncoded: [slash]}
        - {method: GET, path: "/backslash/.*", allowEncoded: [backslash]}
        - {method: GET, path: "/dot/.*", allowEncoded: [dot]}
        - {method: GET, path: "/bytes/.*", allowEncoded: [bytes]}
        - {method: GET, path: "/params/.*", allowEncoded: [params]}
        - {method: OPTIONS, path: "\\*"}
"""


def policy_text(port: int) -> str:
    """The policy for a server on this port of 127.0.0.1, as YAML."""
    return _TEXT.replace("PORT", str(port))
