"""Which known word was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

_MOST_EDITS = 2


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word nearest to ``word``, None when none is near; case does not count.

    Near is at most two characters inserted, deleted, replaced or swapped, and fewer than the word has.
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
    """Return the number of edits, where two neighbours that changed places count as one."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        above, row = row, [i] + [0] * len(right)
        for j, b in enumerate(right, start=1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                row[j] = min(row[j], before[j - 2] + 1)
        before = above
    return row[-1]
