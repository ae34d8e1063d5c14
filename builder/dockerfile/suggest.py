"""Which known word was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

_MOST_EDITS = 2


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word nearest to ``word``, None when none is near; case does not count.

    Near is at most two characters inserted, deleted or replaced, and fewer than the word has.
    """
    wanted = word.lower()
    best: tuple[int, str] | None = None
    for candidate in known:
        limit = min(_MOST_EDITS, len(wanted) - 1, len(candidate) - 1)
        if abs(len(candidate) - len(wanted)) > limit:
            continue
        edits = _distance(wanted, candidate.lower())
        if edits <= limit and (best is None or (edits, candidate) < best):
            best = (edits, candidate)
    return best[1] if best else None


def did_you_mean(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the hint for an unknown ``word``, empty when nothing is near."""
    found = nearest(word, known)
    return (f"did you mean {found}?",) if found else ()


def _distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
