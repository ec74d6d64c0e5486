"""Several processes that serve one policy on one address, and the parent that looks after them.

The parent makes all listeners before the first process serves and keeps them: what waits in the queue of a process that
died is served by the one that takes its place. It reads no byte of traffic. A process ends when the parent is gone.
"""

import asyncio
import contextlib
import ctypes
import logging
import math
import os
import pickle
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import uvloop

from racecar.policy.tables import CompiledWorkload
from racecar.proxy.journal import LAST_LINES_S
from racecar.proxy.limits import DescriptorLimitError
from racecar.proxy.processes import Deaths, caught
from racecar.proxy.say import say
from racecar.proxy.serving import Handle, Service, reopen, serve

GIVEN_UP, CANNOT_START = 1, 2
READY = b"r"
STOP, STOP_NOW, REOPEN, EXCHANGE = b"s", b"n", b"l", b"h"  # the last comes with a descriptor: the policy
STUCK_S = 3.0  # what a worker may take to end beyond the time that its connections and its last lines have
PR_SET_PDEATHSIG = 1
MAX_WORD_BYTES, MAX_WORDS = 1000, 16
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1)
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # a terminal's whole group gets them, and pkill's

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

    def __init__(
        self,
        service: Service,
        listeners: Sequence[socket.socket],
        place: str,
        reload: Callable[[], CompiledWorkload | None],
    ) -> None:
        self._service = service
        self._reload = reload
        self._listeners = list(listeners)
        self._place = place
        self._workers: dict[int, Worker] = {}  # by the number of their listener
        self._deaths = Deaths()
        self._signals: list[int] = []
        self._is_told = False
        self._is_stopping = False
        self._patience_until = math.inf  # then workers that were told to end are killed
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
                self._kill_the_stuck()
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
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)  # stopped, it would not see that
            signal.set_wakeup_fd(-1)
            for caught_before in SIGNALS:
                signal.signal(caught_before, signal.SIG_DFL)
            for number_of in NOT_FOR_WORKERS:
                signal.signal(number_of, signal.SIG_IGN)  # the parent says what they mean
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
        left_s = self._patience_until - time.monotonic()
        poller.poll(None if left_s == math.inf else max(left_s, 0) * 1000)

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
            if number == signal.SIGUSR1:
                reopen(self._service)  # for workers that are started later
                self._tell(REOPEN)
            elif number == signal.SIGHUP:
                self._exchange()
            elif number != signal.SIGCHLD:
                self._stop(STOP_NOW if self._is_stopping else STOP)

    def _stop(self, word: bytes) -> None:
        self._is_stopping = True
        patience_s = LAST_LINES_S + STUCK_S + (0 if word == STOP_NOW else self._service.drain_timeout_s)
        self._patience_until = min(self._patience_until, time.monotonic() + patience_s)
        for listener in self._listeners:
            listener.close()  # else connections would go on waiting in queues that nobody serves
        self._tell(word)

    def _kill_the_stuck(self) -> None:
        """A worker that is stopped, or hangs, must not keep everything from its end."""
        if time.monotonic() < self._patience_until:
            return
        self._patience_until = math.inf
        for worker in self._workers.values():
            say("a worker does not end and is killed; its connections are reset")
            os.kill(worker.pid, signal.SIGKILL)

    def _tell(self, word: bytes, descriptors: Sequence[int] = ()) -> None:
        for worker in self._workers.values():
            try:
                socket.send_fds(worker.line, [word], descriptors)
            except BlockingIOError:
                os.kill(worker.pid, signal.SIGKILL)  # it has read nothing for long: another does as it is told
            except OSError:
                pass  # it has ended, and is reaped next

    def _exchange(self) -> None:
        """Have all workers judge by the policy as it is by now. What one reads all get: the files may change again."""
        if self._is_stopping or (compiled := self._reload()) is None:
            return
        self._service = replace(
            self._service,
            compiled=compiled,
            source=replace(self._service.source, rules=compiled.rules, policies=compiled.policies),
        )
        fd = os.memfd_create("racecar-policy")
        with open(fd, "wb") as file:
            pickle.dump(compiled, file)
            file.flush()
            self._tell(EXCHANGE, (fd,))

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

    def hear(handle: Handle) -> None:
        with contextlib.suppress(BlockingIOError):
            words, descriptors, _flags, _address = socket.recv_fds(line, MAX_WORDS, MAX_WORDS)
            try:
                for word in words:
                    _do(word.to_bytes(), handle, service, descriptors)
            except Exception:
                logger.exception("a worker cannot do as it is told, and ends: another begins with what is in force")
                os._exit(1)
            if not words:
                handle.stop.urge()
                loop.remove_reader(line.fileno())

    def ready(handle: Handle) -> None:
        loop.add_reader(line.fileno(), hear, handle)
        loop.add_signal_handler(signal.SIGTERM, handle.stop.ask)
        line.send(READY)

    await serve(service, listener, ready)
    loop.remove_reader(line.fileno())


def _do(word: bytes, handle: Handle, service: Service, descriptors: list[int]) -> None:
    if word == STOP:
        handle.stop.ask()
    elif word == STOP_NOW:
        handle.stop.urge()
    elif word == REOPEN:
        reopen(service)
    elif word == EXCHANGE:
        handle.exchange(_policy_in(descriptors.pop(0)))


def _policy_in(fd: int) -> CompiledWorkload:
    """What the parent wrote there; others have the descriptor too, and its position."""
    with open(fd, "rb"):
        compiled = pickle.loads(os.pread(fd, os.fstat(fd).st_size, 0))  # noqa: S301  (the parent's own)
    assert isinstance(compiled, CompiledWorkload)
    return compiled
