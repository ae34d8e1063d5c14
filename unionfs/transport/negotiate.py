"""The handshake: which features of the kernel at hand a mount uses.

Features are chosen by the flags the kernel offers, never by its version, so that the stock kernel of Debian 12 (6.1)
and the newest one both get the most they can give.
"""

from __future__ import annotations

from unionfs.namedtuple import NamedTuple
from unionfs.transport.protocol import (
    INIT_IN,
    INIT_IN_OLD,
    INIT_OUT,
    MAJOR,
    MAX_WRITE_BYTES,
    NEWEST_MINOR,
    OLDEST_MINOR,
    InitFlag,
)

_MAX_PAGES = 256
_MAX_READAHEAD_BYTES = 4 << 20
_MAX_BACKGROUND = 64
_CONGESTION = 48
_LOW_32_BITS = 0xFFFF_FFFF

# POSIX_ACL is left out: the kernel would ask for two more attributes of nearly every file. ACLs are kept and
# inherited by the branch; the kernel checks the mode bits. WRITEBACK_CACHE is left out: it switches passthrough off.
_ALWAYS = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.DONT_MASK
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.ABORT_ERROR
    | InitFlag.MAX_PAGES
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
)
_OWNED = InitFlag.EXPLICIT_INVAL_DATA | InitFlag.CACHE_SYMLINKS
_SHARED = InitFlag.AUTO_INVAL_DATA


class Offer(NamedTuple):
    """What the kernel can do, as its INIT says."""

    major: int
    minor: int
    max_readahead_bytes: int
    flags: InitFlag


class Wishes(NamedTuple):
    """What the mount would like."""

    cache_forever: bool
    """Nobody but the mount changes its files: the kernel need not look at times and sizes to trust its cache."""
    passthrough: bool
    stack_depth: int = 1
    """1: backing files lie on a plain file system; 2: they may lie on an overlayfs."""


class Agreement(NamedTuple):
    """What both sides will do."""

    minor: int
    max_readahead_bytes: int
    flags: InitFlag
    stack_depth: int


def parse_offer(body: bytes | memoryview) -> Offer:
    """The kernel's INIT; kernels before 5.17 send no ``flags2``."""
    if len(body) >= INIT_IN.size:
        major, minor, readahead, flags, flags2 = INIT_IN.unpack_from(body)
    else:
        major, minor, readahead, flags = INIT_IN_OLD.unpack_from(body)
        flags2 = 0
    if not flags & InitFlag.INIT_EXT:
        flags2 = 0
    return Offer(major, minor, readahead, InitFlag(flags | flags2 << 32))


def negotiate(offer: Offer, wishes: Wishes) -> Agreement:
    """The most that ``offer`` allows of what is wanted.

    Raises:
        ValueError: the kernel speaks an older protocol than the oldest this program knows.
    """
    if (offer.major, offer.minor) < (MAJOR, OLDEST_MINOR):
        raise ValueError(f"kernel speaks FUSE {offer.major}.{offer.minor}, at least {MAJOR}.{OLDEST_MINOR} is needed")
    wanted = _ALWAYS | (_OWNED if wishes.cache_forever else _SHARED)
    if wishes.passthrough:
        wanted |= InitFlag.PASSTHROUGH
    taken = wanted & offer.flags
    return Agreement(
        min(offer.minor, NEWEST_MINOR),
        min(offer.max_readahead_bytes, _MAX_READAHEAD_BYTES),
        taken,
        wishes.stack_depth if taken & InitFlag.PASSTHROUGH else 0,
    )


def encode_agreement(agreement: Agreement) -> bytes:
    """The reply to INIT."""
    return INIT_OUT.pack(
        MAJOR,
        agreement.minor,
        agreement.max_readahead_bytes,
        agreement.flags & _LOW_32_BITS,
        _MAX_BACKGROUND,
        _CONGESTION,
        MAX_WRITE_BYTES,
        1,
        _MAX_PAGES,
        0,
        agreement.flags >> 32,
        agreement.stack_depth,
        0,
    )
