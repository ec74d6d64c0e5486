"""Give a command a terminal of its own and carry bytes between it and the user's.

A command that held the user's terminal could read what is typed to other programs and write into its settings. The
relay puts the user's terminal into raw mode, so that every key (Ctrl-C too) reaches the command's own terminal, and
puts it back at the end.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import termios
import time
import tty
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

CHUNK_BYTES = 4096  # a terminal's input queue
WINDOW_SIZE = struct.Struct("HHHH")  # struct winsize: rows, columns, and two that nobody sets
RETRY_S = 0.1  # between looks at a pty that nobody has open
DRAIN_S = 1.0  # for output that is still in the pty when the command has ended

_Handler = Callable[[int, FrameType | None], object] | int | None


def terminals(fds: Sequence[int] = (0, 1, 2)) -> int:
    """A mask with bit n set for each of `fds` (stdin, stdout, stderr) that is a terminal: LaunchPlan.pty_mask."""
    return sum(1 << place for place, fd in enumerate(fds) if os.isatty(fd))


def window_size(fd: int) -> bytes:
    return fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(WINDOW_SIZE.size))


def is_foreground(fd: int) -> bool:
    """May this process change the terminal's settings without being stopped?"""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # a terminal, but not our controlling one


class PtyRelay:
    """A new pty and the relay between it and the user's terminal. Use as a context manager, in the main thread.

    `input_fd` and `output_fd` are the user's; either may be None when that stream is no terminal of his. Inside the
    block: give `slave_fd` to the launcher, call `close_slave` once the command is born, then `run`.
    """

    def __init__(self, *, input_fd: int | None, output_fd: int | None) -> None:
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._user_fd = input_fd if input_fd is not None else output_fd
        self._settings: Any = None  # of the user's terminal, as termios gives them
        self._handlers: dict[int, _Handler] = {}
        self._to_command = b""
        self._is_reading = True
        self._hung_up = False
        self.master_fd, self.slave_fd = os.openpty()
        os.set_blocking(self.master_fd, False)

    @classmethod
    def for_standard_streams(cls) -> "PtyRelay":
        """Between a new pty and the terminal that our own stdin, stdout and stderr are."""
        mask = terminals()
        outputs = [fd for fd in (1, 2, 0) if mask & 1 << fd]
        return cls(input_fd=0 if mask & 1 else None, output_fd=outputs[0] if outputs else None)

    def __enter__(self) -> "PtyRelay":
        try:
            self._take_over()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_over(self) -> None:
        if self._user_fd is None or not os.isatty(self._user_fd):
            return
        settings = termios.tcgetattr(self._user_fd)
        termios.tcsetattr(self.slave_fd, termios.TCSANOW, settings)
        self.copy_size()
        if self._input_fd is not None:
            self._settings = settings
            self._set_raw()
            self._handle(signal.SIGCONT, self._set_raw)  # a shell may have changed the settings meanwhile
        self._handle(signal.SIGWINCH, self.copy_size)

    def _handle(self, number: signal.Signals, action: Callable[[], None]) -> None:
        self._handlers[number] = signal.signal(number, lambda _number, _frame: action())

    def _set_raw(self) -> None:
        # In the background tcsetattr would stop us; SIGCONT comes with the foreground, and with SIGHUP from a terminal
        # that is gone.
        if self._input_fd is not None and is_foreground(self._input_fd):
            with contextlib.suppress(termios.error):
                tty.setraw(self._input_fd, termios.TCSADRAIN)

    @property
    def is_raw(self) -> bool:
        """Lines of our own on the user's terminal must then end in CR LF."""
        return self._settings is not None

    def copy_size(self) -> None:
        """Give the pty the user's window size; the kernel tells the command by SIGWINCH."""
        if self._user_fd is not None and self.master_fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.master_fd, termios.TIOCSWINSZ, window_size(self._user_fd))

    def close_slave(self) -> None:
        """Let go of the command's side: only then does the end of its last holder end the relay."""
        if self.slave_fd >= 0:
            os.close(self.slave_fd)
            self.slave_fd = -1

    def close(self) -> None:
        """Put the user's terminal and the signal handlers back; idempotent. A command still there gets SIGHUP."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        if self._settings is not None and self._input_fd is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input_fd, termios.TCSADRAIN, self._settings)
            self._settings = None
        self.close_slave()
        if self.master_fd >= 0:
            os.close(self.master_fd)
            self.master_fd = -1

    def run(self, stop_fd: int) -> None:
        """Carry bytes until `stop_fd` is readable (Launched.fileno), then what is left in the pty."""
        while not self.step(stop_fd):
            pass
        self.drain()

    def drain(self) -> None:
        """Carry what the command left in the pty; its children's output is waited for no longer than DRAIN_S."""
        deadline = time.monotonic() + DRAIN_S
        while (left := deadline - time.monotonic()) > 0 and _poll(left, {self.master_fd: select.POLLIN}):
            if not self._to_user():
                break

    def step(self, stop_fd: int, timeout_s: float | None = None) -> bool:
        """Wait once and carry what is there; true when `stop_fd` is readable."""
        wanted = {stop_fd: select.POLLIN}
        if self._hung_up:
            # Nobody has the pty open, which poll would report for ever; /dev/tty can open it again.
            timeout_s = RETRY_S if timeout_s is None else min(timeout_s, RETRY_S)
        else:
            wanted[self.master_fd] = select.POLLIN | (select.POLLOUT if self._to_command else 0)
        if self._input_fd is not None and self._is_reading and not self._to_command:
            wanted[self._input_fd] = select.POLLIN
        ready = _poll(timeout_s, wanted)
        if self._input_fd in ready:
            self._from_user()
        self._feed()
        if self._hung_up or ready.get(self.master_fd, 0) & ~select.POLLOUT:
            self._hung_up = not self._to_user()
        return stop_fd in ready

    def _from_user(self) -> None:
        assert self._input_fd is not None
        try:
            self._to_command = os.read(self._input_fd, CHUNK_BYTES)
        except OSError as error:
            if error.errno != errno.EIO:  # the user's terminal is gone
                raise
        self._is_reading = bool(self._to_command)

    def _feed(self) -> None:
        """Write what the command's terminal takes; the rest waits, and no more is read from the user."""
        if self._to_command:
            with contextlib.suppress(BlockingIOError):
                self._to_command = self._to_command[os.write(self.master_fd, self._to_command) :]

    def _to_user(self) -> bool:
        """Pass one piece of output on; false when nobody has the command's side open."""
        try:
            data = os.read(self.master_fd, CHUNK_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        if self._output_fd is not None and not _write_all(self._output_fd, data):
            self._output_fd = None
        return True


def _write_all(fd: int, data: bytes) -> bool:
    """Write to the user's side, which somebody may have made non-blocking; false when it is gone."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            _poll(None, {fd: select.POLLOUT})
        except OSError:
            return False
    return True


def _poll(timeout_s: float | None, wanted: dict[int, int]) -> dict[int, int]:
    poller = select.poll()
    for fd, events in wanted.items():
        poller.register(fd, events)
    return dict(poller.poll(None if timeout_s is None else timeout_s * 1000))
