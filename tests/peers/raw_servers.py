"""Servers in threads of the test that say exactly the bytes that a test wants said."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.peers.origins import PATIENCE_S, listen

Talk = Callable[["Line"], None]


class Line:
    """One connection, with what was read of it."""

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.read = b""  # all of it, in order
        self._taken = 0

    def until(self, mark: bytes) -> bytes:
        """What comes up to `mark`, with it; raises EOFError at an early end."""
        while (at := self.read.find(mark, self._taken)) < 0:
            self._more()
        start, self._taken = self._taken, at + len(mark)
        return self.read[start : self._taken]

    def exactly(self, size: int) -> bytes:
        while len(self.read) < self._taken + size:
            self._more()
        start, self._taken = self._taken, self._taken + size
        return self.read[start : self._taken]

    def head(self) -> bytes:
        return self.until(b"\r\n\r\n")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def drain(self) -> None:
        """Read to the end."""
        with contextlib.suppress(EOFError):
            while True:
                self._more()

    def _more(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError
        self.read += data


class RawServer:
    """Calls `talk` for each connection, in a thread of its own, and closes it after."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._listener = listen()
        self.port: int = self._listener.getsockname()[1]
        self.lines: list[Line] = []
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE_S)
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if kind is None and self.failures:
            raise self.failures[0]

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.settimeout(PATIENCE_S)
            line = Line(accepted)
            self.lines.append(line)
            thread = threading.Thread(target=self._serve, args=(line,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: Line) -> None:
        try:
            self._talk(line)
        except (EOFError, ConnectionError):
            pass  # the client went away: what the test checks is what it got
        except BaseException as failure:
            self.failures.append(failure)
        finally:
            line.socket.close()
