"""What can go wrong on the way between a client and a registry, as values.

A `Rule` says for which requests, and how often. The first rule that fits and is not used up decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Status:
    """This status instead of the answer."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Delay:
    """The answer comes later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection ends after so many bytes of the answer's body, None: before the answer."""

    after_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The connection ends after so many bytes of the request's body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """After so many bytes of the answer's body nothing more comes, and the connection stays."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """The body is cut to so many bytes, and its Content-Length says so."""

    to_bytes: int


@dataclass(frozen=True, slots=True)
class Extend:
    """More bytes follow the body, and its Content-Length says so."""

    by: bytes


@dataclass(frozen=True, slots=True)
class Corrupt:
    """One byte of the body is another."""

    at: int


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """The whole content comes, whatever part was asked for."""


@dataclass(frozen=True, slots=True)
class Headers:
    """These headers of the answer are others; an empty value takes one away."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Trickle:
    """The answer, head and all, comes so many bytes at a time, with this pause before each."""

    bytes_at_a_time: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Endless:
    """This answer's body never ends, and no Content-Length tells how long it is."""

    block: bytes
    code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Redirect:
    """307 to the same path below this base (``http://host:port``), or to ``path`` when given."""

    base: str
    path: str | None = None


Fault = (
    Status
    | Delay
    | Drop
    | DropRequest
    | Stall
    | Truncate
    | Extend
    | Corrupt
    | IgnoreRange
    | Headers
    | Trickle
    | Endless
    | Redirect
)


@dataclass(slots=True)
class Rule:
    """A fault for requests with this method (``*``: any) whose path and query hold the pattern.

    The first ``skip`` of them pass, then ``times`` fail (None: all).
    """

    method: str
    pattern: str
    fault: Fault
    times: int | None = None
    skip: int = 0

    def applies(self, method: str, target: str) -> bool:
        """Whether the fault happens now; counts."""
        if self.method not in {"*", method} or re.search(self.pattern, target) is None:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0
