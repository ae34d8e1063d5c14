"""Which characters separate words.

Invariant: these are the sets the reference frontend uses (Go's ``unicode.IsSpace``, and its own class for the blanks
between words), which differ from ``str.isspace``: that also takes the separators U+001C to U+001F.
"""

from __future__ import annotations

SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""White space in the sense of Unicode's property, for ``str.strip``."""

BLANKS = "\t\v\f\r "
"""What separates the words of a line, as a class for regular expressions or ``str.strip``."""

SPACE_SET = frozenset(SPACES)
