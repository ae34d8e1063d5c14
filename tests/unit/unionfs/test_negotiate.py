"""The handshake with kernels of several ages."""

from __future__ import annotations

import pytest

from unionfs.transport.negotiate import Offer, Wishes, encode_agreement, negotiate, parse_offer
from unionfs.transport.protocol import ATTR_OUT, ENTRY_OUT, IN_HEADER, INIT_IN, INIT_OUT, OUT_HEADER, InitFlag

# what the kernels offer, as they sent it
DEBIAN_12 = Offer(7, 37, 128 << 10, InitFlag(0x73FFFFFB))
LINUX_5_4 = Offer(7, 31, 128 << 10, InitFlag(0x03FFFFFB))
LINUX_6_18 = Offer(7, 45, 128 << 10, InitFlag(0x73FFFFFB | 0x6F9 << 32))


def test_sizes_are_those_of_the_kernel() -> None:
    assert [one.size for one in (IN_HEADER, OUT_HEADER, INIT_OUT, ENTRY_OUT, ATTR_OUT)] == [40, 16, 64, 128, 104]


@pytest.mark.parametrize("offer", [DEBIAN_12, LINUX_5_4, LINUX_6_18])
@pytest.mark.parametrize("owned", [False, True])
def test_only_what_is_offered_is_taken(offer: Offer, owned: bool) -> None:
    taken = negotiate(offer, Wishes(owned, passthrough=True))
    assert not taken.flags & ~offer.flags
    assert taken.minor == offer.minor
    assert taken.flags & InitFlag.MAX_PAGES
    assert not taken.flags & InitFlag.WRITEBACK_CACHE
    assert bool(taken.flags & InitFlag.EXPLICIT_INVAL_DATA) is owned
    assert bool(taken.flags & InitFlag.AUTO_INVAL_DATA) is not owned


def test_passthrough_where_it_is_offered_and_wanted() -> None:
    assert negotiate(LINUX_6_18, Wishes(True, passthrough=True, stack_depth=2)).stack_depth == 2
    assert negotiate(LINUX_6_18, Wishes(True, passthrough=False)).stack_depth == 0
    old = negotiate(DEBIAN_12, Wishes(True, passthrough=True))
    assert (old.stack_depth, old.flags & InitFlag.PASSTHROUGH) == (0, 0)


def test_a_newer_kernel_is_answered_with_the_newest_known() -> None:
    assert negotiate(LINUX_6_18._replace(minor=99), Wishes(True, passthrough=False)).minor == 45


def test_a_kernel_too_old_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel speaks FUSE 7\.26, at least 7\.31 is needed"):
        negotiate(LINUX_5_4._replace(minor=26), Wishes(True, passthrough=False))


def test_flags_travel_in_two_words() -> None:
    body = INIT_IN.pack(7, 45, 4096, InitFlag.INIT_EXT | InitFlag.MAX_PAGES, 1 << 5)
    offer = parse_offer(body)
    assert offer.flags == InitFlag.INIT_EXT | InitFlag.MAX_PAGES | InitFlag.PASSTHROUGH
    reply = INIT_OUT.unpack(encode_agreement(negotiate(offer, Wishes(True, passthrough=True))))
    assert reply[:4] == (7, 45, 4096, InitFlag.INIT_EXT | InitFlag.MAX_PAGES)
    assert (reply[10], reply[11]) == (1 << 5, 1)


def test_an_old_kernel_sends_fewer_words() -> None:
    old = parse_offer(INIT_IN.pack(7, 31, 4096, InitFlag.MAX_PAGES, 0xFFFF)[:16])
    assert old.flags == InitFlag.MAX_PAGES
    unannounced = parse_offer(INIT_IN.pack(7, 36, 4096, InitFlag.MAX_PAGES, 0xFFFF))
    assert unannounced.flags == InitFlag.MAX_PAGES
