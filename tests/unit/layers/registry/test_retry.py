from __future__ import annotations

from datetime import UTC, datetime

import pytest

from layers.registry.retry import parse_retry_after, plan_delay
from layers.registry.settings import Patience

PATIENCE = Patience(tries=4, first_delay_seconds=1, longest_delay_seconds=3, retry_after_limit_seconds=20)


def test_delays_double_within_their_limit_and_end() -> None:
    for done, middle in ((1, 1.0), (2, 2.0), (3, 3.0)):
        delay = plan_delay(done, PATIENCE)
        assert delay is not None
        assert middle * 0.74 < delay < middle * 1.26
    assert plan_delay(4, PATIENCE) is None


def test_slow_connects_are_tried_twice() -> None:
    assert plan_delay(1, PATIENCE, slow=True) is not None
    assert plan_delay(2, PATIENCE, slow=True) is None


def test_retry_after_lengthens_or_ends() -> None:
    assert plan_delay(1, PATIENCE, retry_after_seconds=15) == 15
    assert plan_delay(1, PATIENCE, retry_after_seconds=21) is None
    assert (plan_delay(3, PATIENCE, retry_after_seconds=0.1) or 0) > 2


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("-3", 0),
        ("soon", 0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thu, 01 Jan 2026 12:00:30 -0000", 30),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds
