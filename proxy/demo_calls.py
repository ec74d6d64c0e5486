"""The calls of the demo and what each must lead to: at the caller, at the services and in the access log."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from racecar.proxy.demo_services import Service, Services

FORWARDED = "FORWARDED"
DROPPED = "DROPPED"
GREETING = "hello"

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
"""


def policy_text(services: Services) -> str:
    return POLICY.format(jobs=services.jobs, relayed=services.relayed, native=services.native)


@dataclass(frozen=True, slots=True)
class Request:
    """One verdict to be seen: a row of the table. `method` is empty where no HTTP is spoken."""

    title: str
    verdict: str
    port: int
    method: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One command under policy. `received` is all that may reach a service because of it."""

    command: tuple[str, ...]
    requests: tuple[Request, ...]
    exit_code: int
    output: str
    received: Mapping[str, list[str]] = field(default_factory=dict)


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


def greet(service: Service, *, kind: str = "tcp") -> tuple[str, ...]:
    """Say hello and print the answer; bash because every user of the machine can run it."""
    say_and_read = 'printf "%s" "$2" >&3 && IFS= read -r -t 10 -N "${#2}" answer <&3'
    script = f'exec 3<>"$1" && {say_and_read} && printf "%s\\n" "$answer"'
    return ("bash", "-c", script, "bash", f"/dev/{kind}/{service.address}/{service.port}", GREETING)


def _one(service: Service, method: str, path: str, verdict: str, *extra: str) -> Call:
    allowed = verdict == FORWARDED
    return Call(
        command=curl(*extra, "-o", "/dev/null", service.url + path),
        requests=(Request(f"{method} {path}", verdict, service.port, method, path),),
        exit_code=0,
        output="200\n" if allowed else "403\n",
        received={"jobs": [f"{method} {path}"]} if allowed else {},
    )


def _keep_alive(jobs: Service) -> Call:
    """Three requests on one connection: a denial in the middle costs neither neighbour."""
    steps = (("/jobs", FORWARDED), ("/applicants", DROPPED), ("/healthz", FORWARDED))
    urls = [word for path, _ in steps for word in ("-o", "/dev/null", jobs.url + path)]
    requests = tuple(
        Request(f"GET {path} ({number} of 3, one connection)", verdict, jobs.port, "GET", path)
        for number, (path, verdict) in enumerate(steps, 1)
    )
    return Call(
        command=curl(*urls),
        requests=requests,
        exit_code=0,
        output="200\n403\n200\n",
        received={"jobs": ["GET /jobs", "GET /healthz"]},
    )


def _greeting(name: str, service: Service) -> Call:
    return Call(
        command=greet(service),
        requests=(Request(f"TCP echo, {name}", FORWARDED, service.port),),
        exit_code=0,
        output=f"{GREETING}\n",
        received={name: [GREETING]},
    )


def calls(services: Services) -> tuple[Call, ...]:
    """The story, in order."""
    jobs = services.jobs
    return (
        _one(jobs, "GET", "/healthz", FORWARDED),
        _one(jobs, "GET", "/jobs", FORWARDED),
        _one(jobs, "POST", "/jobs", DROPPED, "--data", '{"title": "spy"}'),
        _one(jobs, "GET", "/applicants", DROPPED),
        _one(jobs, "GET", "/jobs/../applicants", DROPPED, "--path-as-is"),
        _keep_alive(jobs),
        _greeting("relayed", services.relayed),
        _greeting("native", services.native),
        Call(
            command=greet(services.refused),
            requests=(Request("TCP to a port that no rule names", DROPPED, services.refused.port),),
            exit_code=BASH_FAILED,
            output="",
        ),
        Call(
            command=curl("-o", "/dev/null", services.other_jobs.url + "/jobs"),
            requests=(Request(f"GET /jobs at {services.other_jobs.address}", DROPPED, services.other_jobs.port),),
            exit_code=CURL_COULD_NOT_CONNECT,
            output="000\n",
        ),
        Call(
            command=greet(services.datagrams, kind="udp"),
            requests=(Request("UDP datagram", DROPPED, services.datagrams.port),),
            exit_code=BASH_FAILED,
            output="",
        ),
    )
