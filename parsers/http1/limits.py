"""How large a head may be. What is larger is refused before it is complete."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Limits of one head, request or response; the target's is the request's alone."""

    max_head_bytes: int = 65536  # blank line included: 431, an answer is refused
    max_target_bytes: int = 8192  # 414
    max_headers: int = 100  # 431, an answer is refused

    def __post_init__(self) -> None:
        if not 256 <= self.max_head_bytes <= 1 << 20:
            raise ValueError(f"max_head_bytes is {self.max_head_bytes}; from 256 to {1 << 20}")
        if not 16 <= self.max_target_bytes < self.max_head_bytes:
            raise ValueError(f"max_target_bytes is {self.max_target_bytes}; from 16 to below max_head_bytes")
        if not 1 <= self.max_headers <= 10000:
            raise ValueError(f"max_headers is {self.max_headers}; from 1 to 10000")


DEFAULT_LIMITS = HeadLimits()
