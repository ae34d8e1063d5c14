from __future__ import annotations

import pytest

from builder.sandbox.idmap import Mapping, Range, plan_mapping

OWN = Mapping((Range(0, 1000, 1),), (Range(0, 100, 1),), by_helpers=False)


@pytest.mark.parametrize(
    ("subuid", "subgid", "expected"),
    [
        ("", "", OWN),
        ("other:1:2\n", "other:1:2\n", OWN),
        ("me:100000:65536\n", "", OWN),
        ("me:nonsense\n#\nme:1:0\n", "me:1:0", OWN),
        (
            "other:1:2\nme:100000:65536\n",
            "1000:200000:10\n",
            Mapping(
                (Range(0, 1000, 1), Range(1, 100000, 65536)), (Range(0, 100, 1), Range(1, 200000, 10)), by_helpers=True
            ),
        ),
        (
            "me:100000:10\nme:300000:5\n",
            "me:1:1\n",
            Mapping(
                (Range(0, 1000, 1), Range(1, 100000, 10), Range(11, 300000, 5)),
                (Range(0, 100, 1), Range(1, 1, 1)),
                by_helpers=True,
            ),
        ),
    ],
)
def test_plan(subuid: str, subgid: str, expected: Mapping) -> None:
    assert plan_mapping(1000, 100, ("1000", "me"), subuid, subgid) == expected
