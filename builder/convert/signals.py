"""The signals STOPSIGNAL accepts: a number, or a Linux name with or without ``SIG``."""

from __future__ import annotations

import re

_LAST = 64
# not compiled on import: most builds have no STOPSIGNAL
_NAMES = (
    r"(ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS|TERM|TRAP"
    r"|TSTP|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ|RTMIN|RTMAX|RTMIN\+([1-9]|1[0-5])|RTMAX-([1-9]|1[0-4]))\Z"
)


def check_signal(text: str) -> None:
    """Return when ``text`` is a signal.

    Raises:
        ValueError: it is none.
    """
    if text.isdecimal():
        if not 1 <= int(text) <= _LAST:
            raise ValueError(f"signal {text} is not between 1 and {_LAST}")
        return
    name = text.upper().removeprefix("SIG")
    if not re.match(_NAMES, name):
        raise ValueError(f"signal {text!r} is unknown")
