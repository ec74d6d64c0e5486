"""The calls of the demo and what each must lead to: at the caller, at the services and in the access log."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from racecar.proxy.demo_services import GREETING, Service, Services
from racecar.proxy.demo_tries import DROPPED, FORWARDED, Try, command, tries

__all__ = ["DROPPED", "FORWARDED", "Call", "Request", "calls", "policy_text"]

# Curl's exit code for a refused connection; bash says 1 when it cannot open /dev/tcp.
CURL_COULD_NOT_CONNECT = 7
BASH_FAILED = 1

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: tweeter
spec:
  description: The tweeting client may read jobs, and nothing else of the jobs service.
  endpointSelector:
    matchLabels: {{app: tweeter}}
  egress:
  - toCIDR: ["{jobs.address}/32"]
    toPorts:
    - ports: [{{port: "{jobs.port}", protocol: TCP}}]
      rules:
        http:
        - {{method: GET, path: "/jobs"}}
        - {{method: GET, path: "/healthz"}}
  - toCIDR: ["{relayed.address}/32"]
    toPorts:
    - ports: [{{port: "{relayed.port}", protocol: TCP}}]
      rules: {{l7proto: tcp}}
  - toCIDR: ["{native.address}/32"]
    toPorts:
    - ports: [{{port: "{native.port}", protocol: TCP}}]
---
apiVersion: racecar.io/v1
kind: RacecarPolicy
metadata:
  name: feed
spec:
  description: It may also count clicks and follow the feed, which is a WebSocket.
  endpointSelector:
    matchLabels: {{app: tweeter}}
  egress:
  - toCIDR: ["{jobs.address}/32"]
    toPorts:
    - ports: [{{port: "{jobs.port}", protocol: TCP}}]
      rules:
        http:
        - {{method: POST, path: "/clicks/[a-z]+"}}
        - {{method: GET, path: "/feed", websocket: true}}
"""


def policy_text(services: Services) -> str:
    return POLICY.format(jobs=services.jobs, relayed=services.relayed, native=services.native)


@dataclass(frozen=True, slots=True)
class Request:
    """One verdict to be seen: a row of the table."""

    title: str
    verdict: str
    port: int
    method: str = ""  # empty: what was sent could not be read, or is not to be compared
    path: str = ""
    is_http: bool = False
    reason: str = ""  # empty: any


@dataclass(frozen=True, slots=True)
class Call:
    """One command under policy. `received` is all that must reach a service because of it, `maybe` what may."""

    command: tuple[str, ...]
    requests: tuple[Request, ...]
    exit_code: int
    output: tuple[tuple[str, ...], ...]  # for each line what it may be
    received: Mapping[str, list[str]] = field(default_factory=dict)
    maybe: frozenset[str] = frozenset()
    titles: tuple[str, ...] = ()  # of the lines of its output, where they are not all of one request


def curl(*arguments: str) -> tuple[str, ...]:
    """Print the status of each answer, and nothing of what the environment may say about proxies."""
    return (
        "curl",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "-w",
        "%{http_code}\n",
        *arguments,
    )


def greet(*services: Service, kind: str = "tcp") -> tuple[str, ...]:
    """Say hello and print the answer, to each; bash because every user of the machine can run it."""
    one = 'exec 3<>"$place" && printf "%s" "$0" >&3 && IFS= read -r -t 10 -N "${#0}" answer <&3'
    script = f'for place; do {one} && printf "%s\\n" "$answer" || exit 1; done'
    places = (f"/dev/{kind}/{service.address}/{service.port}" for service in services)
    return ("bash", "-c", script, GREETING, *places)


def _one(service: Service, path: str, verdict: str) -> Call:
    allowed = verdict == FORWARDED
    return Call(
        command=curl("-o", "/dev/null", service.url + path),
        requests=(Request(f"GET {path}", verdict, service.port, "GET", path, is_http=True),),
        exit_code=0,
        output=(("200",) if allowed else ("403",),),
        received={"jobs": [f"GET {path}"]} if allowed else {},
    )


def _keep_alive(jobs: Service) -> Call:
    """Three requests on one connection: a denial in the middle costs neither neighbour."""
    steps = (("/jobs", FORWARDED), ("/applicants", DROPPED), ("/healthz", FORWARDED))
    urls = [word for path, _ in steps for word in ("-o", "/dev/null", jobs.url + path)]
    requests = tuple(
        Request(f"GET {path} ({number} of 3, one connection)", verdict, jobs.port, "GET", path, is_http=True)
        for number, (path, verdict) in enumerate(steps, 1)
    )
    return Call(
        command=curl(*urls),
        requests=requests,
        exit_code=0,
        output=(("200",), ("403",), ("200",)),
        received={"jobs": ["GET /jobs", "GET /healthz"]},
    )


def _curious(jobs: Service) -> Call:
    """Everything that a curious caller tries, by one command."""
    every = tries(jobs)
    return Call(
        command=command(jobs, every),
        requests=tuple(request for one in every for request in _requests(one, jobs.port)),
        exit_code=0,
        output=tuple(one.answers for one in every),
        received={"jobs": [line for one in every for line in one.received]},
        maybe=frozenset(line for one in every for line in one.maybe),
        titles=tuple(one.title for one in every),
    )


def _requests(one: Try, port: int) -> Iterator[Request]:
    for judged in one.judged:
        title = f"{one.title}: {judged.method} {judged.path}" if len(one.judged) > 1 else one.title
        yield Request(title, judged.verdict, port, judged.method, judged.path, is_http=True, reason=judged.reason)


def _greetings(**services: Service) -> Call:
    return Call(
        command=greet(*services.values()),
        requests=tuple(Request(f"TCP echo, {name}", FORWARDED, service.port) for name, service in services.items()),
        exit_code=0,
        output=((GREETING,),) * len(services),
        received={name: [GREETING] for name in services},
    )


def calls(services: Services) -> tuple[Call, ...]:
    """The story, in order."""
    jobs = services.jobs
    return (
        _one(jobs, "/jobs", FORWARDED),
        _one(jobs, "/applicants", DROPPED),
        _keep_alive(jobs),
        _curious(jobs),
        _greetings(relayed=services.relayed, native=services.native),
        Call(
            command=greet(services.refused),
            requests=(Request("TCP to a port that no rule names", DROPPED, services.refused.port),),
            exit_code=BASH_FAILED,
            output=(),
        ),
        Call(
            command=curl("-o", "/dev/null", services.other_jobs.url + "/jobs"),
            requests=(Request(f"GET /jobs at {services.other_jobs.address}", DROPPED, services.other_jobs.port),),
            exit_code=CURL_COULD_NOT_CONNECT,
            output=(("000",),),
        ),
        Call(
            command=greet(services.datagrams, kind="udp"),
            requests=(Request("UDP datagram", DROPPED, services.datagrams.port),),
            exit_code=BASH_FAILED,
            output=(),
        ),
    )
