"""Messages between loader and proxy: one JSON object a packet over a SOCK_SEQPACKET pair, with descriptors beside it.

Neither side trusts the other's words further than their form: the proxy reads hostile bytes, and may be taken over.
"""

import array
import contextlib
import json
import os
import socket
from typing import Any

MAX_MESSAGE_BYTES = 65536
MAX_DESCRIPTORS = 8
_INT_BYTES = array.array("i").itemsize


class ChannelClosed(Exception):  # noqa: N818  (an end, not a fault)
    """The other side is gone."""


class Channel:
    """One end. Non-blocking when asked to be: then `receive` returns None when there is nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def set_timeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> bool:
        """False if the other side does not read fast enough (non-blocking only). Raises ChannelClosed."""
        data = json.dumps(message).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except OSError as failed:
            raise ChannelClosed(str(failed)) from None
        return True

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors, which the caller owns.

        Raises ChannelClosed at its end, ValueError for what is no message, TimeoutError after `set_timeout`.
        """
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                MAX_MESSAGE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except TimeoutError:
            raise
        except OSError as failed:
            raise ChannelClosed(str(failed)) from None
        received = array.array("i")
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received.frombytes(rights[: len(rights) - len(rights) % _INT_BYTES])
        descriptors = received.tolist()
        try:
            if not data:
                raise ChannelClosed("end of stream")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError(f"message of over {MAX_MESSAGE_BYTES} bytes or {MAX_DESCRIPTORS} descriptors")
            message = json.loads(data)
            if not isinstance(message, dict):
                raise ValueError("message is no JSON object")
        except RecursionError:
            _close_all(descriptors)
            raise ValueError("message is nested too deeply") from None
        except (ChannelClosed, ValueError):
            _close_all(descriptors)
            raise
        return message, descriptors

    def close(self) -> None:
        self._socket.close()


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
