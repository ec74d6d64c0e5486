"""Bodies of 100 MB, with their checksums and the proxy's memory; a thousand clients at once."""

import hashlib
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.peers.origins import HERE, Origin
from tests.peers.proxies import Proxy

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180)]  # Go builds its library first

SIZE = 100_000_000
FLAT_KB = 4096  # buffers and pipes of one connection, not its body
CONNECTIONS = 1000
ROUNDS = 3  # of four calls each


@pytest.fixture(scope="module")
def block() -> bytes:
    return bytes(range(251)) * (SIZE // 251 + 1)


@pytest.fixture(scope="module")
def digest(block: bytes) -> str:
    return hashlib.sha256(memoryview(block)[:SIZE]).hexdigest()


@pytest.fixture(scope="module")
def body(block: bytes, directory: Path) -> Iterator[Path]:
    path = directory / "body"
    path.write_bytes(memoryview(block)[:SIZE])
    yield path
    path.unlink()


@pytest.fixture
def load(build_go: Callable[[Path], Path]) -> str:
    return str(build_go(HERE / "clients/load.go"))


def run_watched(proxy: Proxy, argv: Sequence[str]) -> tuple[bytes, int]:
    """Its output, and how far the proxy's memory rose while it ran, in KB."""
    before = highest = proxy.pss_kb()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    outputs: list[tuple[bytes, bytes]] = []
    reader = threading.Thread(target=lambda: outputs.append(process.communicate()))
    reader.start()
    while reader.is_alive():
        highest = max(highest, proxy.pss_kb())
        reader.join(0.01)
    ((output, said),) = outputs
    assert process.returncode == 0, said.decode()
    return output, highest - before


def warm(proxy: Proxy, load: str, run: str) -> None:
    """What the first connections make grow once."""
    for words in (["upload", f"{proxy.base}/{run}/up", "1000000"], ["download", f"{proxy.base}/{run}/large"]):
        subprocess.run([load, *words], capture_output=True, check=True, timeout=30)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("client", ["go", "curl"])
def test_an_upload_of_100_mb_arrives_and_takes_no_memory(
    client: str,
    framing: str,
    run: str,
    load: str,
    body: Path,
    digest: str,
    tool: Callable[[str], str],
    proxies: Callable[[str], Proxy],
) -> None:
    proxy = proxies("go")
    warm(proxy, load, run)
    url = f"{proxy.base}/{run}/up"
    if client == "go":
        argv = [load, "upload", url, str(SIZE), *(["chunked"] if framing == "chunked" else [])]
    else:
        argv = [tool("curl"), "-sS", "-X", "POST", "-T", str(body), "-w", "", url]
        argv += ["-H", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    output, rise = run_watched(proxy, argv)
    assert output.decode().removeprefix("200 ") == f"{SIZE} {digest}\n"
    assert rise < FLAT_KB


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("client", ["go", "curl"])
def test_a_download_of_100_mb_arrives_and_takes_no_memory(
    client: str,
    framing: str,
    run: str,
    load: str,
    digest: str,
    tool: Callable[[str], str],
    proxies: Callable[[str], Proxy],
    tmp_path: Path,
) -> None:
    proxy = proxies("go")
    warm(proxy, load, run)
    url = f"{proxy.base}/{run}/download?size={SIZE}" + ("&chunked=1" if framing == "chunked" else "")
    target = tmp_path / "got"
    argv = [load, "download", url] if client == "go" else [tool("curl"), "-sS", "-o", str(target), url]
    output, rise = run_watched(proxy, argv)
    if client == "curl":
        output = f"200 {target.stat().st_size} {hashlib.sha256(target.read_bytes()).hexdigest()}\n".encode()
        target.unlink()
    assert output.decode() == f"200 {SIZE} {digest}\n"
    assert rise < FLAT_KB


def test_a_thousand_clients_at_once_each_get_their_own_answers(
    run: str, load: str, origins: Callable[[str], Origin], proxies: Callable[[str], Proxy]
) -> None:
    origin, proxy = origins("go"), proxies("go")
    argv = [load, "crowd", f"{proxy.base}/{run}", str(CONNECTIONS), str(ROUNDS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=55)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    seen = origin.seen(run)
    calls = Counter((entry.method, entry.target) for entry in seen)
    each = CONNECTIONS * ROUNDS
    assert calls == {("GET", f"/{run}/jobs"): each, ("POST", f"/{run}/up"): each}
    assert len({entry.peer for entry in seen}) == CONNECTIONS
