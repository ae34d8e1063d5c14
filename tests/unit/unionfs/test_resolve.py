"""docs/semantics.md, "lookup", row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.resolve import (
    CODE_KIND,
    CODE_SHIFT,
    Extent,
    Kind,
    Probe,
    Resolution,
    Scan,
    instances,
    merge_scans,
    resolve,
)

FLOOR = 9
A, F, D, W = Kind.ABSENT, Kind.FILE, Kind.DIRECTORY, Kind.WHITEOUT
OPQ = "opaque"

TABLE = [
    # what the branches say, top first → what is shown, merged from, floor, shadows, whiteout at
    ([], (A, (), FLOOR, False, None)),
    ([A, A], (A, (), FLOOR, False, None)),
    ([F], (F, (0,), FLOOR, False, None)),
    ([A, F], (F, (1,), FLOOR, False, None)),
    ([F, F], (F, (0,), FLOOR, True, None)),
    ([F, D], (F, (0,), FLOOR, True, None)),
    ([W, F], (W, (), FLOOR, True, 0)),
    ([A, W, F], (W, (), FLOOR, True, 1)),
    ([W], (W, (), FLOOR, False, 0)),
    ([D], (D, (0,), FLOOR, False, None)),
    ([D, D], (D, (0, 1), FLOOR, True, None)),
    ([D, A, D], (D, (0, 2), FLOOR, True, None)),
    ([D, F], (D, (0,), 0, True, None)),
    ([D, F, D], (D, (0,), 0, True, None)),
    ([D, W, D], (D, (0,), 0, True, None)),
    ([D, A, W, D], (D, (0,), 1, True, None)),
    ([OPQ, D], (D, (0,), 0, True, None)),
    ([D, OPQ, D], (D, (0, 1), 1, True, None)),
    ([A, D, OPQ], (D, (1, 2), 2, True, None)),
    ([W, OPQ], (W, (), FLOOR, True, 0)),
]


def probes(says: list[object]) -> tuple[Probe, ...]:
    return tuple(Probe(at, D, opaque=True) if word == OPQ else Probe(at, word) for at, word in enumerate(says))


@pytest.mark.parametrize(("says", "shown"), TABLE)
def test_a_name_is_what_the_topmost_claims_make_of_it(says, shown):
    assert resolve(probes(says), FLOOR) == Resolution(*shown)


@pytest.mark.parametrize(
    ("says", "found"),
    [([A, F], [1]), ([F, D, F], [0, 1, 2]), ([F, W, F], [0]), ([W, F], []), ([D, A, D], [0, 2])],
)
def test_instances_end_at_a_whiteout(says, found):
    assert [probe.position for probe in instances(probes(says))] == found


NAMES = [b"a", b"b", b"c"]


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([F, D, W])), min_size=1, max_size=5))
def test_an_index_says_of_every_name_what_resolve_says(branches):
    scans = [
        Scan(
            position,
            {name: kind for name, kind in branch.items() if kind != W},
            {name for name, kind in branch.items() if kind == W},
        )
        for position, branch in enumerate(branches)
    ]
    index = merge_scans(scans, FLOOR)
    for name in NAMES:
        expected = resolve([Probe(at, branch.get(name, A)) for at, branch in enumerate(branches)], FLOOR)
        code = index.codes.get(name, 0)
        assert code & CODE_KIND == expected.kind
        if expected.visible:
            assert code >> CODE_SHIFT == expected.positions[0]
            assert bool(code & 4) == expected.shadows
        if expected.kind == D:
            extent = index.extents.get(name, Extent((code >> CODE_SHIFT,), FLOOR))
            assert extent == Extent(expected.positions, expected.floor)
    assert index.directories == sum(index.kind(name) == D for name in NAMES)
