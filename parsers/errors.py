"""What a parser raises when a peer broke the protocol."""

from racecar.policy.reasons import Reason


class ProtocolError(Exception):
    """A peer's mistake. `reason` is the numbered reason, `detail` says what was seen and the limit."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
