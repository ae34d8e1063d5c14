"""Which addresses a build uses: a block of 1024 that nothing on the machine has a route to.

::

    block + 0  …/30   the way out, root:          .1 the host, .2 the hub
    block + 0  …/24   the way out, a program:     .2 its gateway, .3 its resolver, .100 the hub
    block + 512 …/23  the bridge in the hub:      .1 the hub, the others steps

Pure. Invariant: of a block that is offered, no address lies in a network that was said to be taken.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

from unionfs.namedtuple import NamedTuple

BLOCK_PREFIX = 22
STEPS_PREFIX = 23
PROGRAM_PREFIX = 24
PAIR_PREFIX = 30

_SIZE = 1 << 32 - BLOCK_PREFIX
_HALF = _SIZE // 2
# RFC 1918 and RFC 6598; the first is apart from what docker, podman, libvirt and slirp4netns give out themselves
_POOLS = (
    (10 << 24 | 192 << 16, 10),
    (172 << 24 | 16 << 16, 12),
    (192 << 24 | 168 << 16, 16),
    (100 << 24 | 64 << 16, 10),
)
# a shorter prefix says where the internet is, not which addresses are used
_SHORTEST_TAKEN = 8
STEPS = _HALF - 3
"""How many steps can have an address at a time."""


class Block(NamedTuple):
    """Addresses from ``first`` on."""

    first: int

    @property
    def number(self) -> int:
        """What tells it from every other block, in 22 bits."""
        return self.first >> 32 - BLOCK_PREFIX

    def address(self, offset: int) -> str:
        """The address ``offset`` places from the first, in dotted form."""
        return socket.inet_ntoa((self.first + offset).to_bytes(4, "big"))

    @property
    def network(self) -> str:
        """The address of the whole block, to be used with `BLOCK_PREFIX`."""
        return self.address(0)

    @property
    def gateway(self) -> str:
        """The hub, as steps see it."""
        return self.address(_HALF + 1)

    def step(self, number: int) -> str:
        """The address of step ``number``, which is below `STEPS`."""
        return self.address(_HALF + 2 + number)


def free_blocks(taken: Iterable[tuple[int, int]], start: int) -> Iterator[Block]:
    """Blocks that touch none of the networks ``taken`` (address, prefix length); ``start`` shifts where to begin.

    Two builds that begin elsewhere hardly ever want the same one.
    """
    spans = [(first, first + (1 << 32 - prefix)) for first, prefix in taken if prefix >= _SHORTEST_TAKEN]
    for base, prefix in _POOLS:
        count = (1 << 32 - prefix) // _SIZE
        for place in range(count):
            first = base + (start + place) % count * _SIZE
            if all(first + _SIZE <= low or high <= first for low, high in spans):
                yield Block(first)
