from __future__ import annotations

import pytest

from builder.sandbox.idmap import Mapping, Range, Writer, plan_mapping, plan_same

OWN = Mapping((Range(0, 1000, 1),), (Range(0, 100, 1),), Writer.ITSELF)


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
                (Range(0, 1000, 1), Range(1, 100000, 65536)), (Range(0, 100, 1), Range(1, 200000, 10)), Writer.HELPERS
            ),
        ),
        (
            "me:100000:10\nme:300000:5\n",
            "me:1:1\n",
            Mapping(
                (Range(0, 1000, 1), Range(1, 100000, 10), Range(11, 300000, 5)),
                (Range(0, 100, 1), Range(1, 1, 1)),
                Writer.HELPERS,
            ),
        ),
    ],
)
def test_plan(subuid: str, subgid: str, expected: Mapping) -> None:
    assert plan_mapping(1000, 100, ("1000", "me"), subuid, subgid) == expected


def test_root_keeps_every_id_that_exists() -> None:
    """As root of a rootless container sees its own maps: the second column is of the namespace outside."""
    mapping = plan_same("         0       1000          1\n         1     100000      65536\n", "0 0 4294967295\n")
    assert mapping == Mapping((Range(0, 0, 1), Range(1, 1, 65536)), (Range(0, 0, 4294967295),), Writer.PARENT)
