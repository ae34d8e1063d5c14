"""Where text comes from: named sources, line ranges, excerpts and findings.

Invariants: lines are counted from 1; a range names its file, so that it means the same wherever it is carried;
nothing here knows the Dockerfile language.
"""

from __future__ import annotations

from unionfs.namedtuple import NamedTuple

CONTEXT_LINES = 2
"""Lines shown before and after the marked ones."""


class SourceRange(NamedTuple):
    """Lines ``start`` to ``end``, both included, of the file called ``file``."""

    file: str
    start: int
    end: int

    def __str__(self) -> str:
        """Return ``file:start``, the form editors and terminals recognise."""
        return f"{self.file}:{self.start}"


class Finding(NamedTuple):
    """Something worth telling that is no error; ``rule`` is its stable name, ``source`` None when it has no line."""

    rule: str
    message: str
    source: SourceRange | None = None


class Source(NamedTuple):
    """A text and the name it is known by."""

    name: str
    text: str

    def excerpt(self, marked: SourceRange) -> str:
        """Return the marked lines with ``>>>`` before them, and the lines around.

        The form is the one ``docker build`` prints: the place, a rule, numbered lines, a rule; no newline at the end.
        A range beyond the text marks nothing; the result is then the empty string.
        """
        lines = self.text.split("\n")
        if lines and not lines[-1]:
            lines.pop()
        end = min(marked.end, len(lines))
        if not 1 <= marked.start <= end:
            return ""
        first = max(1, marked.start - CONTEXT_LINES)
        last = min(len(lines), end + CONTEXT_LINES)
        ruler = "-" * 20
        shown = [str(marked), ruler]
        for number in range(first, last + 1):
            mark = ">>>" if marked.start <= number <= end else "   "
            line = lines[number - 1].rstrip("\r")
            shown.append(f" {number:3} | {mark} {line}".rstrip())
        shown.append(ruler)
        return "\n".join(shown)
