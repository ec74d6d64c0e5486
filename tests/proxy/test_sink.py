"""The access log's sink: it never waits for a reader, keeps denials longest and counts what it drops."""

import array
import contextlib
import fcntl
import os
import resource
import select
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from racecar.proxy import sink as sink_module
from racecar.proxy.sink import LINE_OVERHEAD, LineSink, open_log

F_SETPIPE_SZ = 1031


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes nothing more."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "access.log"
    fd = open_log(str(path))
    yield path, fd
    os.close(fd)


def drain(fd: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 1 << 20)
    return b""


# --- Writing ---------------------------------------------------------------------------------------------------------


def test_lines_are_written_in_order_each_with_its_newline(log: tuple[Path, int]) -> None:
    path, fd = log
    sink = LineSink(fd)
    for number in range(5):
        sink.add(f"line {number}", denial=False)
    assert not sink.is_empty
    sink.flush()
    assert sink.is_empty
    assert path.read_text() == "".join(f"line {number}\n" for number in range(5))


def test_denials_go_first() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        sink.add("allowed 1", denial=False)
        sink.add("denied 1", denial=True)
        sink.add("allowed 2", denial=False)
        sink.add("denied 2", denial=True)
        drain(reader)
        sink.flush()
        assert drain(reader) == b"denied 1\ndenied 2\nallowed 1\nallowed 2\n"


def test_a_full_pipe_is_not_waited_for_and_nothing_is_lost() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        sink.add("kept", denial=False)
        sink.flush()
        assert (sink.is_empty, sink.lost) == (False, 0)
        drain(reader)
        sink.flush()
        assert drain(reader) == b"kept\n"


def test_a_line_longer_than_the_pipe_goes_in_parts_and_stays_whole() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        line = "".join(f"{number:05}" for number in range(4000))
        sink.add(line, denial=False)
        sink.add("after", denial=False)
        received = b""
        drain(reader)
        for _ in range(20):
            sink.flush()
            received += drain(reader)
        assert sink.is_empty
        assert received == f"{line}\nafter\n".encode()


def test_lines_of_a_pipe_are_written_whole_or_not_at_all() -> None:
    """Two processes write one log: what one write(2) takes must end with a line."""
    line = 100
    with full_pipe() as (reader, writer):
        fcntl.fcntl(writer, F_SETPIPE_SZ, 1 << 16)
        drain(reader)
        sink = LineSink(writer)
        for number in range(3000):
            sink.add(f"{number:0{line - 1}}", denial=False)
        while not sink.is_empty:
            sink.flush()
            held = array.array("i", [0])
            fcntl.ioctl(reader, termios.FIONREAD, held)
            assert held[0] % line == 0
            os.read(reader, 7 * line)


def test_at_the_end_a_slow_reader_is_waited_for_and_a_dead_one_is_not() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        sink.add("last", denial=False)
        reading = threading.Thread(target=os.read, args=(reader, 4096))
        reading.start()
        assert sink.finish(10) == 0
        reading.join()
        assert drain(reader) == b"last\n"

        os.write(writer, b"x" * 4096)
        sink.add("never read", denial=False)
        sink.add("denied", denial=True)
        assert sink.finish(0.01) == 2
        assert sink.is_empty


LINE = "x" * 99  # 100 bytes with its newline
LINE_SIZE = 100 + LINE_OVERHEAD


@pytest.fixture
def room_for_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten lines in all, five of them no denials."""
    monkeypatch.setattr(sink_module, "MAX_HELD_BYTES", 10 * LINE_SIZE)
    monkeypatch.setattr(sink_module, "MAX_OTHER_BYTES", 5 * LINE_SIZE)


def waiting(sink: LineSink, reader: int) -> list[str]:
    """What the sink holds, oldest first, by emptying it into its pipe."""
    lines = b""
    while not sink.is_empty:
        drain_all(reader)
        sink.flush()
        lines += drain(reader)
    return lines.decode().split()


def drain_all(fd: int) -> None:
    while drain(fd):
        pass


def named(name: str) -> str:
    return name.ljust(99, ".")


@pytest.mark.usefixtures("room_for_ten")
def test_bytes_are_bounded_and_what_goes_beyond_is_counted() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        for number in range(8):
            sink.add(named(f"a{number}"), denial=False)
        assert sink.lost == 3
        for number in range(12):
            sink.add(named(f"d{number}"), denial=True)
        assert sink.lost == 3 + 5 + 2
        assert waiting(sink, reader) == [named(f"d{number}") for number in range(10)]


@pytest.mark.usefixtures("room_for_ten")
def test_a_long_line_takes_the_room_of_many() -> None:
    with full_pipe() as (_reader, writer):
        sink = LineSink(writer)
        sink.add("x" * (9 * LINE_SIZE), denial=True)
        sink.add(LINE, denial=True)
        assert sink.lost == 1


@pytest.mark.usefixtures("room_for_ten")
def test_denials_take_the_room_of_allowed_lines_and_never_the_other_way_round() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        for number in range(5):
            sink.add(named(f"a{number}"), denial=False)
        for number in range(7):
            sink.add(named(f"d{number}"), denial=True)
        sink.add(named("a5"), denial=False)
        assert sink.lost == 3
        assert waiting(sink, reader) == [named(name) for name in (*(f"d{n}" for n in range(7)), "a0", "a1", "a2")]


@pytest.mark.usefixtures("room_for_ten")
@pytest.mark.parametrize(("denial", "share"), [(True, 5), (False, 2)])
def test_no_workload_washes_out_the_lines_of_another(denial: bool, share: int) -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        for number in range(100):
            sink.add(named(f"flood{number}"), denial=denial, workload=1)
        for number in range(share):
            sink.add(named(f"quiet{number}"), denial=denial, workload=2)
        for number in range(100):
            sink.add(named(f"flood{number}"), denial=denial, workload=1)
        kept = waiting(sink, reader)
        assert len(kept) == (10 if denial else 5)
        assert [line for line in kept if line.startswith("quiet")] == [named(f"quiet{n}") for n in range(share)]
        assert sink.lost + len(kept) == 200 + share


def test_workloads_take_turns() -> None:
    with full_pipe() as (reader, writer):
        sink = LineSink(writer)
        for workload in (1, 2):
            for number in range(100):
                sink.add(named(f"{workload}-{number}"), denial=True, workload=workload)
        turns = []
        while not sink.is_empty:
            drain_all(reader)
            sink.flush()
            turns.append(drain(reader)[:1])
        assert turns == [b"1", b"2", b"1", b"2", b"1"]


def test_room_is_given_back() -> None:
    """Else a log that runs for long would take nothing any more."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    sink = LineSink(writer)
    for number in range(3000):
        sink.add("x" * 9000, denial=number % 2 == 0, workload=number % 3)
        sink.flush()
        drain(reader)
    while not sink.is_empty:
        sink.flush()
        drain(reader)
    assert (sink.lost, sink._denials.held, sink._others.held) == (0, 0, 0)
    os.close(reader)
    os.close(writer)


def test_with_the_reader_gone_it_goes_on_and_counts() -> None:
    with full_pipe() as (reader, writer):
        duplicate = os.dup(writer)
        sink = LineSink(duplicate)
        for number in range(4):
            sink.add(f"{number}", denial=number % 2 == 0)
        drain(reader)
        gone, writer_of_gone = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.close(gone)
        os.dup2(writer_of_gone, duplicate)
        os.close(writer_of_gone)
        sink.flush()
        assert (sink.broken, sink.is_empty, sink.lost) == (True, True, 4)
        sink.add("later", denial=True)
        sink.flush()
        assert sink.lost == 5
        os.close(duplicate)


def test_a_full_disk_is_counted_and_no_failure() -> None:
    fd = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    sink = LineSink(fd)
    sink.add("a", denial=False)
    sink.add("b", denial=True)
    sink.flush()
    assert (sink.broken, sink.is_empty, sink.lost) == (False, False, 0)
    assert sink.finish(10) == 2
    os.close(fd)


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """As a disk does that is full there."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("is_stdout", "size"), [(False, 100), (True, 150)])
def test_once_there_is_room_again_the_lines_go_on(log: tuple[Path, int], is_stdout: bool, size: int) -> None:
    """What stood of a line that is not whole is cut off, but not where others may have written behind it."""
    path, fd = log
    sink = LineSink(fd, is_stdout=is_stdout)
    with files_end_at(150):
        sink.add(named("a"), denial=True)
        sink.add(named("b"), denial=True)
        for _ in range(3):
            sink.flush()
            assert (path.stat().st_size, sink.is_empty) == (size, False)
    sink.flush()
    assert path.read_text().split() == [named("a"), named("b")]
    assert sink.lost == 0


def test_a_full_disk_leaves_whole_lines_at_the_end(log: tuple[Path, int]) -> None:
    path, fd = log
    sink = LineSink(fd)
    with files_end_at(150):
        sink.add(named("a"), denial=True)
        sink.add(named("b"), denial=True)
        assert sink.finish(10) == 1
    assert path.read_text() == named("a") + "\n"


# Writes a line of 100 bytes that a full disk takes half of, and says so; ends when it is told to.
OTHER = """
import resource, signal, sys
from racecar.proxy.sink import LineSink, open_log
resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
sink = LineSink(open_log(sys.argv[1]), is_stdout=sys.argv[2] == "stdout")
sink.add("b" * 99, denial=True)
sink.flush()
print("torn", flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.flush()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "stdout"])
def test_nobody_writes_into_the_line_of_another(log: tuple[Path, int], kind: str) -> None:
    path, fd = log
    sink = LineSink(fd)
    sink.add(named("a"), denial=True)
    sink.flush()
    command = [sys.executable, "-c", OTHER, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "torn\n"
        sink.add(named("c"), denial=True)
        sink.flush()
        assert sink.is_empty == (kind == "file")
        other.communicate("now\n", timeout=20)
    assert sink.finish(10) == 0
    assert sorted(path.read_text().split()) == [named("a"), "b" * 99, named("c")]


def test_a_file_that_ends_inside_a_line_gets_a_newline_first(tmp_path: Path) -> None:
    """Who wrote it was killed, or its machine lost power."""
    path = tmp_path / "access.log"
    path.write_text("half of a li")
    fd = open_log(str(path))
    sink = LineSink(fd)
    for name in ("a", "b"):
        sink.add(name, denial=False)
        sink.flush()
    os.close(fd)
    assert path.read_text() == "half of a li\na\nb\n"


def test_a_socket_whose_peer_does_not_read_is_not_waited_for() -> None:
    """A blocking one: stdout of a command may be a socket that is not ours to change."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        sink = LineSink(ours.fileno())
        os.set_blocking(ours.fileno(), True)
        for _ in range(9000):
            sink.add("x" * 400, denial=False)
        sink.flush()
        assert not sink.is_empty


def test_what_is_no_unicode_is_written_escaped(log: tuple[Path, int]) -> None:
    path, fd = log
    sink = LineSink(fd)
    sink.add("a\udcffb", denial=False)
    sink.flush()
    assert path.read_text() == "a\\udcffb\n"


# --- Opening ---------------------------------------------------------------------------------------------------------


def test_a_log_is_appended_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for text in (b"one\n", b"two\n"):
        fd = open_log(str(path))
        os.write(fd, text)
        os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(OSError, match="symbolic link"):
        open_log(str(tmp_path / "link"))


def test_a_fifo_without_a_reader_fails_instead_of_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        open_log(str(tmp_path / "fifo"))


@contextlib.contextmanager
def stdout_is(fd: int) -> Iterator[None]:
    """Descriptor 1 for the time of a test; pytest's own is put back."""
    kept = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_lines_on_stdout_and_the_commands_output_do_not_overwrite_each_other(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    with stdout_is(fd):
        log_fd = open_log("-")
        for number in range(3):
            os.write(1, f"command {number}\n".encode())
            os.write(log_fd, f"log {number}\n".encode())
        os.close(log_fd)
    os.close(fd)
    assert (tmp_path / "out").read_text() == "".join(f"command {n}\nlog {n}\n" for n in range(3))


def test_a_pipe_on_stdout_is_not_made_non_blocking_for_the_command() -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with stdout_is(writer):
        fd = open_log("-")
        assert (os.get_blocking(1), os.get_blocking(fd)) == (True, False)
        os.close(fd)
    os.close(reader)
    os.close(writer)


def test_a_terminal_on_stdout_gets_lines() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    with stdout_is(slave):
        fd = open_log("-")
        sink = LineSink(fd)
        sink.add("line", denial=False)
        sink.flush()
        os.close(fd)
    poller = select.poll()
    poller.register(master, select.POLLIN)
    assert poller.poll(5000)
    assert os.read(master, 100) == b"line\n"
    os.close(master)
    os.close(slave)


def test_a_socket_on_stdout_gets_lines() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with stdout_is(ours.fileno()):
            fd = open_log("-")
        sink = LineSink(fd)
        sink.add("line", denial=False)
        sink.flush()
        os.close(fd)
        theirs.settimeout(5)
        assert theirs.recv(100) == b"line\n"
