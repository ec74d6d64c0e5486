"""The relay between the user's terminal and a command's own, each played by a pty."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from racecar.redirect import terminal
from racecar.redirect.launch import LaunchPlan, spawn
from racecar.redirect.terminal import PtyRelay

UID = 1_999_999_921
LAUNCHER = Path(__file__).resolve().parent.parent.parent / "redirect/launcher"


@dataclass
class User:
    """A user at his terminal: types into and reads from `fd`; the relay holds `terminal_fd`."""

    fd: int
    terminal_fd: int

    def set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@pytest.fixture
def user() -> Iterator[User]:
    fd, terminal_fd = os.openpty()
    yield User(fd, terminal_fd)
    os.close(fd)
    os.close(terminal_fd)


@pytest.fixture
def stop() -> Iterator[tuple[int, int]]:
    pipe = os.pipe()
    yield pipe
    for fd in pipe:
        os.close(fd)


@pytest.fixture
def relay(user: User) -> Iterator[PtyRelay]:
    with PtyRelay(input_fd=user.terminal_fd, output_fd=user.terminal_fd) as made:
        tty.setraw(made.slave_fd)
        yield made


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def carry(relay: PtyRelay, stop: tuple[int, int], fd: int) -> bytes:
    """Let the relay work until something has reached `fd`."""
    while not is_readable(fd):
        relay.step(stop[0], 0.05)
    return os.read(fd, 65536)


def size_of(fd: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", terminal.window_size(fd))
    return rows, columns


def test_keys_reach_the_command_unchanged(user: User, relay: PtyRelay, stop: tuple[int, int]) -> None:
    os.write(user.fd, b"a\x03\x1a\r\n\xff")
    assert carry(relay, stop, relay.slave_fd) == b"a\x03\x1a\r\n\xff"


def test_output_reaches_the_user_unchanged(user: User, relay: PtyRelay, stop: tuple[int, int]) -> None:
    os.write(relay.slave_fd, b"a\nb\x1b[0m")
    assert carry(relay, stop, user.fd) == b"a\nb\x1b[0m"


def test_the_commands_terminal_starts_with_the_users_settings_and_size(user: User) -> None:
    settings = termios.tcgetattr(user.terminal_fd)
    settings[6][termios.VERASE] = b"\x08"
    termios.tcsetattr(user.terminal_fd, termios.TCSANOW, settings)
    user.set_size(33, 77)
    with PtyRelay(input_fd=user.terminal_fd, output_fd=user.terminal_fd) as relay:
        assert termios.tcgetattr(relay.slave_fd) == settings
        assert size_of(relay.slave_fd) == (33, 77)


def test_a_new_window_size_is_passed_on(user: User, relay: PtyRelay) -> None:
    user.set_size(40, 100)
    os.kill(os.getpid(), signal.SIGWINCH)
    assert size_of(relay.slave_fd) == (40, 100)


def test_the_users_terminal_is_raw_meanwhile_and_then_as_before(user: User) -> None:
    before = termios.tcgetattr(user.terminal_fd)
    handlers = [signal.getsignal(number) for number in (signal.SIGWINCH, signal.SIGCONT)]

    def fail_inside() -> None:
        with PtyRelay(input_fd=user.terminal_fd, output_fd=user.terminal_fd) as relay:
            assert relay.is_raw
            assert not termios.tcgetattr(user.terminal_fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert termios.tcgetattr(user.terminal_fd) == before
    assert [signal.getsignal(number) for number in (signal.SIGWINCH, signal.SIGCONT)] == handlers


def test_raw_mode_is_taken_up_again_after_a_stop(user: User, relay: PtyRelay) -> None:
    settings = termios.tcgetattr(user.terminal_fd)
    settings[3] |= termios.ICANON
    termios.tcsetattr(user.terminal_fd, termios.TCSANOW, settings)
    os.kill(os.getpid(), signal.SIGCONT)
    assert not termios.tcgetattr(user.terminal_fd)[3] & termios.ICANON


def test_without_input_the_users_terminal_stays_as_it_is(user: User, stop: tuple[int, int]) -> None:
    before = termios.tcgetattr(user.terminal_fd)
    with PtyRelay(input_fd=None, output_fd=user.terminal_fd) as relay:
        assert not relay.is_raw
        assert termios.tcgetattr(user.terminal_fd) == before
        os.write(relay.slave_fd, b"out")
        assert carry(relay, stop, user.fd) == b"out"


def test_the_relay_stops_when_told_and_passes_on_what_is_left(
    user: User, relay: PtyRelay, stop: tuple[int, int]
) -> None:
    os.write(relay.slave_fd, b"x" * 3000)
    relay.close_slave()
    os.write(stop[1], b"!")
    relay.run(stop[0])
    seen = b""
    while len(seen) < 3000:
        seen += os.read(user.fd, 65536)
    assert seen == b"x" * 3000


def test_children_that_hold_the_terminal_do_not_hold_up_the_end(
    relay: PtyRelay, stop: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "DRAIN_S", 0.02)
    os.write(stop[1], b"!")
    relay.run(stop[0])
    assert relay.slave_fd >= 0


def test_a_terminal_that_nobody_has_open_can_be_opened_again(
    user: User, relay: PtyRelay, stop: tuple[int, int]
) -> None:
    name = os.ttyname(relay.slave_fd)
    relay.close_slave()
    for _ in range(3):
        assert not relay.step(stop[0], 0.0)
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    os.write(fd, b"again")
    assert carry(relay, stop, user.fd) == b"again"
    os.close(fd)


def test_a_command_that_does_not_read_stops_the_reading_of_keys(
    user: User, relay: PtyRelay, stop: tuple[int, int]
) -> None:
    os.set_blocking(user.fd, False)
    sent = received = 0
    for _ in range(100):
        try:
            sent += os.write(user.fd, b"k" * 1024)
        except BlockingIOError:
            break
        relay.step(stop[0], 0.0)
    assert sent < 100 * 1024
    while received < sent:
        received += len(carry(relay, stop, relay.slave_fd))
    assert received == sent


@pytest.mark.parametrize(("given", "mask"), [("tpt", 5), ("ppp", 0), ("ttt", 7)])
def test_the_mask_names_the_streams_that_are_terminals(
    user: User, stop: tuple[int, int], given: str, mask: int
) -> None:
    assert terminal.terminals([user.terminal_fd if kind == "t" else stop[0] for kind in given]) == mask


@pytest.mark.root
@pytest.mark.parametrize(("typed", "code"), [(b"word\n", 3), (b"\x03", 130), (b"\x04", 4)])
def test_a_command_under_the_launcher_lives_in_the_relayed_terminal(
    user: User, cgroup: Path, typed: bytes, code: int
) -> None:
    subprocess.run(["make", "--silent", "-C", str(LAUNCHER)], check=True)
    user.set_size(33, 77)
    cgroup_fd = os.open(cgroup, os.O_RDONLY)
    script = "trap 'exit 130' INT; stty size; read -r word || exit 4; echo got $word; exit 3"
    with PtyRelay(input_fd=user.terminal_fd, output_fd=user.terminal_fd) as relay:
        plan = LaunchPlan(
            command=["sh", "-c", script], cgroup_fd=cgroup_fd, uid=UID, gid=UID, pty_fd=relay.slave_fd, pty_mask=7
        )
        with spawn(plan) as launched:
            relay.close_slave()
            seen = b""
            while b"33 77" not in seen:
                seen += carry(relay, (launched.fileno(), -1), user.fd)
            os.write(user.fd, typed)
            relay.run(launched.fileno())
            outcome = launched.wait(20.0)
    os.close(cgroup_fd)
    assert outcome.code == code
    while code == 3 and b"got word\r\n" not in seen:
        seen += os.read(user.fd, 4096)
