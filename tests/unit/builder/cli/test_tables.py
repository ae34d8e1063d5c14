"""Columns, ages and durations for people."""

from __future__ import annotations

import datetime as dt

import pytest

from builder.cli.tables import format_age, format_duration, print_table


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONGER", "C"), [("one", "x", ""), ("t", "y", "z")])
    assert capsys.readouterr().out == "A     LONGER   C\none   x\nt     y        z\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (40 * 86_400, "1 month"),
        (800 * 86_400, "2 years"),
    ],
)
def test_durations_in_the_largest_unit(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


def test_ages() -> None:
    now = dt.datetime.now(dt.UTC)
    assert format_age((now - dt.timedelta(days=3, hours=1)).isoformat()) == "3 days ago"
    assert format_age((now + dt.timedelta(hours=1)).isoformat()) == "just now"
    assert format_age("1970-01-01T00:00:00Z").endswith(" years ago")
    assert format_age("2024-01-02T03:04:05.123456789Z").endswith(" ago")
    assert format_age(None) == ""
    assert format_age("yesterday") == "yesterday"
