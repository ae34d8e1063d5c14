"""Which records go when room is wanted: decisions on values, nothing is touched here.

Invariants: what is in use never goes, nor does what something kept stands on, whose layers would have to stay
anyway; records of one result go together; of the results that may go the one used longest ago goes first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush

from unionfs.namedtuple import NamedTuple


class Result(NamedTuple):
    """All records of one result of a step, as pruning sees them. ``digest`` is that of the layer's blob."""

    chain_id: str
    parent_chain_id: str
    digest: str
    size_bytes: int
    created_ns: int
    last_used_ns: int
    description: str


REGULAR, CACHE_MOUNT = "regular", "exec.cachemount"
"""What is kept, in BuildKit's words: the result of a step, the directory of a ``RUN --mount=type=cache``."""


class Filter(NamedTuple):
    """Which entries are meant: those that fit all that is given.

    ``chain_id`` is how their id begins, with or without ``sha256:``; ``kind`` is empty for all.
    """

    chain_id: str = ""
    description: str = ""
    unused_since_ns: int | None = None
    kind: str = ""

    def fits(self, result: Result) -> bool:
        """Whether ``result`` is meant."""
        return self.fits_entry(REGULAR, result.chain_id, result.description, result.last_used_ns)

    def fits_entry(self, kind: str, entry_id: str, description: str, last_used_ns: int) -> bool:
        """Whether such an entry is meant; the filter's description need only be a part of its own."""
        return (
            self.kind in {"", kind}
            and entry_id.removeprefix("sha256:").startswith(self.chain_id.removeprefix("sha256:"))
            and self.description in description
            and (self.unused_since_ns is None or last_used_ns < self.unused_since_ns)
        )


EVERY = Filter()


class PrunePlan(NamedTuple):
    """Results whose records go, and the room their layers took."""

    chain_ids: tuple[str, ...]
    freed_bytes: int


def plan_prune(
    results: Iterable[Result],
    *,
    in_use: Collection[str] = (),
    unused_since_ns: int | None = None,
    keep_bytes: int | None = None,
    everything: bool = False,
    only: Filter = EVERY,
) -> PrunePlan:
    """What to forget: results not used since ``unused_since_ns``; then the longest unused, down to ``keep_bytes``.

    None goes but those that fit ``only``; what stays keeps what it stands on. ``in_use`` are chain IDs of images and
    running builds. With neither limit nothing goes, unless ``everything``.
    """
    by_chain = {result.chain_id: result for result in results}
    children = dict.fromkeys(by_chain, 0)
    for result in by_chain.values():
        if result.parent_chain_id in children:
            children[result.parent_chain_id] += 1
    total = sum(result.size_bytes for result in by_chain.values())
    going: list[Result] = []
    leaves = [_aged(result) for result in by_chain.values() if not children[result.chain_id]]
    heapify(leaves)
    while leaves:
        result = by_chain[heappop(leaves)[1]]
        too_old = unused_since_ns is not None and result.last_used_ns < unused_since_ns
        too_much = keep_bytes is not None and total > keep_bytes
        if result.chain_id in in_use or not only.fits(result) or not (everything or too_old or too_much):
            continue
        going.append(result)
        total -= result.size_bytes
        if result.parent_chain_id in children:
            children[result.parent_chain_id] -= 1
            if not children[result.parent_chain_id]:
                heappush(leaves, _aged(by_chain[result.parent_chain_id]))
    return PrunePlan(tuple(result.chain_id for result in going), sum(result.size_bytes for result in going))


def _aged(result: Result) -> tuple[int, str]:
    """Order in which results go."""
    return (result.last_used_ns, result.chain_id)
