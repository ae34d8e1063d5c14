"""Whether a request is sent again, and when: the table of retries as pure functions.

=====================================  ==================================================================
what happened                          what is done
=====================================  ==================================================================
refused, reset, no answer, no name     tried again after a delay that doubles, up to ``Patience.tries``
connecting timed out                   tried once more (each wait is ``Patience.connect_seconds``)
429, 502, 503, 504, 500                the same as a broken connection; ``Retry-After`` lengthens the delay,
                                       one beyond ``retry_after_limit_seconds`` ends the tries
401                                    not here: a new token, once (`layers.registry.tokens`)
TLS refused, any other 4xx             final
=====================================  ==================================================================
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from layers.registry.settings import Patience

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
_TRIES_WHEN_SLOW = 2
_JITTER = 0.25


def plan_delay(
    tries_done: int, patience: Patience, *, retry_after_seconds: float = 0.0, slow: bool = False
) -> float | None:
    """Seconds to wait before the next try, None when there is none. ``slow``: connecting itself timed out."""
    limit = min(_TRIES_WHEN_SLOW, patience.tries) if slow else patience.tries
    if tries_done >= limit or retry_after_seconds > patience.retry_after_limit_seconds:
        return None
    delay = min(patience.first_delay_seconds * 2.0 ** (tries_done - 1), patience.longest_delay_seconds)
    # S311: spreads clients that failed at the same moment, no secret depends on it
    delay *= 1 + random.uniform(-_JITTER, _JITTER)  # noqa: S311
    return max(delay, retry_after_seconds)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float:
    """Seconds in a ``Retry-After`` header (RFC 9110, 10.2.3: a number or a date); 0 when absent or unreadable."""
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
