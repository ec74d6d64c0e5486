"""Several processes that serve one policy on one address, and the parent that looks after them.

The parent makes all listeners before the first process serves and keeps them: what waits in the queue of a process that
died is served by the one that takes its place. It reads no byte of traffic. A process ends when the parent is gone.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import uvloop

from racecar.proxy.limits import DescriptorLimitError
from racecar.proxy.processes import Deaths, caught
from racecar.proxy.say import say
from racecar.proxy.serving import Service, Stop, serve

GIVEN_UP, CANNOT_START = 1, 2
STOP, STOP_NOW, READY = b"s", b"n", b"r"
MAX_WORD_BYTES = 1000
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

logger = logging.getLogger(__name__)


@dataclass
class Worker:
    """A process that serves, and our end of the line to it."""

    pid: int
    line: socket.socket
    is_starting: bool = True
    is_ready: bool = False


class Crew:
    """Start one process for each listener, start those again that die, stop all."""

    def __init__(self, service: Service, listeners: Sequence[socket.socket], place: str) -> None:
        self._service = service
        self._listeners = list(listeners)
        self._place = place
        self._workers: dict[int, Worker] = {}  # by the number of their listener
        self._deaths = Deaths()
        self._signals: list[int] = []
        self._is_told = False
        self._is_stopping = False
        self._code = 0

    def run(self) -> int:
        """Serve until a signal ends it; the exit code."""
        with caught(self._signals, SIGNALS) as wakeup:
            for number in range(len(self._listeners)):
                self._start(number)
            while self._workers:
                self._wait(wakeup)
                self._see_who_is_ready()
                self._take_signals(wakeup)
                self._reap()
        return self._code

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_worker(number, theirs)
        theirs.close()
        ours.setblocking(False)
        self._workers[number] = Worker(pid, ours)

    def _become_worker(self, number: int, line: socket.socket) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for caught_before in SIGNALS:
                signal.signal(caught_before, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's whole group: the parent says what it means
            for worker in self._workers.values():
                worker.line.close()
            for other, listener in enumerate(self._listeners):
                if other != number:
                    listener.close()
            uvloop.run(_work(self._service, self._listeners[number], line))
            code = 0
        except DescriptorLimitError as failed:
            line.send(str(failed).encode())  # the parent says it, once for all workers
            code = CANNOT_START
        except BaseException:
            logger.exception("a worker ends")
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)

    def _wait(self, wakeup: int) -> None:
        poller = select.poll()
        poller.register(wakeup, select.POLLIN)
        for worker in self._workers.values():
            if worker.is_starting:
                poller.register(worker.line, select.POLLIN)
        poller.poll()

    def _see_who_is_ready(self) -> None:
        for worker in self._workers.values():
            self._hear(worker)
        if not self._is_told and all(worker.is_ready for worker in self._workers.values()):
            self._is_told = True
            say(f"listening on {self._place}")

    def _hear(self, worker: Worker) -> None:
        """The first word of a worker: that it serves, or why it cannot."""
        if not worker.is_starting:
            return
        with contextlib.suppress(BlockingIOError):
            word = worker.line.recv(MAX_WORD_BYTES)
            worker.is_starting = False
            worker.is_ready = word == READY
            if word and not worker.is_ready and not self._is_stopping:
                say(word.decode(errors="replace"))
                self._code = CANNOT_START
                self._stop(STOP)

    def _take_signals(self, wakeup: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)
        received, self._signals[:] = list(self._signals), []
        for number in received:
            if number != signal.SIGCHLD:
                self._stop(STOP_NOW if self._is_stopping else STOP)

    def _stop(self, word: bytes) -> None:
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()  # else connections would go on waiting in queues that nobody serves
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                worker.line.send(word)

    def _reap(self) -> None:
        for number, worker in list(self._workers.items()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if not pid:
                continue
            self._hear(worker)  # its word may have come just now
            worker.line.close()
            del self._workers[number]
            if not self._is_stopping:
                self._replace(number, status)

    def _replace(self, number: int, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        if self._deaths.may_restart(time.monotonic()):
            say(f"a worker {how} and is started again; its connections were reset")
            self._start(number)
        else:
            say(f"a worker {how}; workers died {self._deaths}: giving up")
            self._code = GIVEN_UP
            self._stop(STOP)


async def _work(service: Service, listener: socket.socket, line: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    line.setblocking(False)

    def hear(stop: Stop) -> None:
        with contextlib.suppress(BlockingIOError):
            words = line.recv(16)
            if words == STOP:
                stop.ask()
            else:
                stop.urge()
            if not words:
                loop.remove_reader(line.fileno())

    def ready(stop: Stop) -> None:
        loop.add_reader(line.fileno(), hear, stop)
        loop.add_signal_handler(signal.SIGTERM, stop.ask)
        line.send(READY)

    await serve(service, listener, ready)
    loop.remove_reader(line.fileno())
