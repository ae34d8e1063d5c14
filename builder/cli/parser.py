"""Reading of command lines: argparse with docker's manners.

Invariants: a wrong command line is a `UsageError` whose one line names the argument, with the nearest right one as a
hint where there is one.  On the cached-build path: nothing but argparse is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from builder.errors import UsageError
from builder.options import default_root

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# argparse has the titles of its help translated: gettext looks for catalogues, and loads locale, at each start
setattr(argparse, "_", str)  # noqa: B010

_USUAL_COLUMNS = 80
_MOST_COLUMNS = 120
_NOTHING_REFUSED: Mapping[str, str] = {}
_FORMS = {"?": "[{}]", "+": "{}...", "*": "[{}...]", argparse.REMAINDER: "[{}...]"}
_SWITCH: Mapping[str, object] = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_PROGRAM_OPTIONS = ("--version", "--help")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse would import shutil, and with it all compressors, to learn the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_help_columns(), max_help_position=32)


def _help_columns() -> int:
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        columns = 0
    return min(columns or _USUAL_COLUMNS, _MOST_COLUMNS) - 2


class ArgumentParser(argparse.ArgumentParser):
    """The parser of one command; ``summary`` and ``example`` are for people.

    ``refused`` are options that docker has and this command has not, and why.
    """

    def __init__(self, prog: str, summary: str, example: str, refused: Mapping[str, str] = _NOTHING_REFUSED) -> None:
        super().__init__(
            prog=prog,
            description=summary,
            epilog=f"example:\n  {example}",
            # argparse tries each option on a formatter: on the same one; the help has its own
            formatter_class=cache(_HelpFormatter),
            allow_abbrev=False,
        )
        self.summary = summary
        self.example = example
        self.refused = refused
        self._forms: dict[str, Mapping[str, object]] = {}

    def add_root(self) -> None:
        """The command works on a store: it takes ``--root``."""
        self.add_argument(
            "--root",
            default=default_root(dict(os.environ)),
            metavar="DIR",
            help="where images and cache live, $XDG_DATA_HOME/pybuild when left out",
        )

    def add_isolation(self) -> None:
        """The command runs steps: it takes ``--isolation``."""
        self.add_argument(
            "--isolation",
            choices=("auto", "full", "rootless", "no-new-proc", "chroot", "no-namespaces"),
            default="auto",
            metavar="LEVEL",
            help="how strong steps are shut in; auto is the strongest that works",
        )

    def add_runtime(self) -> None:
        """The command runs steps: it takes ``--runtime``."""
        self.add_argument(
            "--runtime", metavar="runc|crun|PATH", help="OCI runtime to run in, in place of the sandbox of this program"
        )

    def add_policy(self, option: str, default: str, forms: Mapping[str, str], help_text: str) -> None:
        """The command takes ``option``, which is ``forms["true"]``, and ``option=FORM`` for each of ``forms``."""
        self._forms[option] = forms
        self.add_argument(option, action="store_const", const=forms["true"], default=default, help=help_text)

    def actions(self) -> tuple[argparse.Action, ...]:
        """All options and arguments, in the order of their definition."""
        return tuple(self._actions)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values that ``words`` give.

        Raises:
            UsageError: the command line makes no sense.
        """
        self._take_forms(words)
        try:
            arguments, left = self.parse_known_args(words)
        except UsageError as error:
            if error.message.startswith("the following arguments are required"):
                # what was meant for an argument may be the value of an option that does not exist
                self._refuse_unknown(words)
            raise
        if left:
            self._refuse_unknown(left)
            raise UsageError(f"unexpected argument {left[0]!r}", hints=(f"usage: {self.format_usage_line()}",))
        return arguments

    def _take_forms(self, words: Sequence[str]) -> None:
        """``--option=true`` and ``--option=false`` are options, as they are for docker, where ``words`` have them."""
        for word in words:
            name, equals, value = word.partition("=")
            if not (equals and name.startswith("--")):
                continue
            for action in self._actions:
                if name in action.option_strings and action.nargs == 0 and word not in self._option_string_actions:
                    forms = self._forms_of(name, action)
                    if value.lower() in forms:
                        const = forms[value.lower()]
                        self.add_argument(
                            word, dest=action.dest, action="store_const", const=const, default=argparse.SUPPRESS,
                            help=argparse.SUPPRESS,
                        )  # fmt: skip

    def _forms_of(self, name: str, action: argparse.Action) -> Mapping[str, object]:
        if name in self._forms:
            return self._forms[name]
        return _SWITCH if action.const is True else {}

    def error(self, message: str) -> NoReturn:
        """The command line makes no sense. Raises UsageError."""
        about, surplus, value = message.partition(": ignored explicit argument ")
        if surplus:
            forms = self._forms.get(about.removeprefix("argument "), {"true": True, "false": False})
            message = f"{about}: expected {', '.join(forms)}, got {value}"
        missing = message.startswith("the following arguments are required")
        example = (f"for example: {self.example}",) if missing else ()
        raise UsageError(message, hints=(*example, f"{self.prog} --help lists the options"))

    def format_help(self) -> str:
        """The help, with a usage line that leaves the options to the list below it."""
        self.usage = self.format_usage_line()
        self.formatter_class = _HelpFormatter
        return super().format_help()

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """The help is written; argparse itself would say nothing of a disk that is full."""
        (sys.stdout if file is None else file).write(self.format_help())

    def format_usage_line(self) -> str:
        """The command, and the arguments it takes: ``pybuild run [OPTIONS] IMAGE [COMMAND...]``."""
        arguments = [
            (_FORMS.get(action.nargs, "{}") if isinstance(action.nargs, str) else "{}").format(action.metavar)
            for action in self._actions
            if not action.option_strings
        ]
        return " ".join([self.prog, "[OPTIONS]", *arguments])

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Nothing, when ``words`` have no option that is unknown; raises UsageError for the first that is."""
        known = [name for action in self._actions for name in action.option_strings]
        for word in words:
            if word == "--":
                return
            option = word.partition("=")[0] if word.startswith("--") else word[:2]
            if not option.startswith("-") or option == "-" or option[1:].isdigit() or option in known:
                continue
            if option in self.refused:
                raise UsageError(f"{option}: {self.refused[option]}")
            from builder.dockerfile.suggest import did_you_mean

            near = did_you_mean(option, [*known, *_PROGRAM_OPTIONS]) if option.startswith("--") else ()
            raise UsageError(f"unknown option {option}", hints=(*near, f"{self.prog} --help lists the options"))
