"""The tests themselves as ``scripts/test`` runs them for a plain user, with subordinate ids and with one id: a few of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.abilities import NOBODY, plain_interpreter
from harness.plainuser import SUBORDINATE, directory, program_of_user
from harness.portable import place_tests

__all__ = ["directory"]

pytestmark = pytest.mark.root("becomes another user, with ids of its own in /etc/subuid")
COMMANDS = ("tests/e2e/test_diff.py",)
OTHERS = ("tests/sandbox/test_console.py", "tests/unit/unionfs/test_copyup.py")


@pytest.mark.parametrize(
    ("subordinate", "ids"), [(SUBORDINATE, ("--map-auto",)), ("", ())], ids=["subordinate ids", "one id"]
)
def test_what_cannot_be_is_skipped_and_all_else_passes(directory: Path, subordinate: str, ids: tuple[str, ...]) -> None:
    checkout = place_tests(directory)
    run = program_of_user(directory, subordinate)
    pytest_words = (plain_interpreter(), "-m", "pytest", "-q", "-p", "no:cacheprovider")
    inside = ("unshare", "--user", "--map-root-user", *ids, "--mount")
    for words in ((*pytest_words, *COMMANDS), (*inside, *pytest_words, *OTHERS)):
        done = run(*words, cwd=checkout, variables=("REQUIRE=fuse,sandbox,e2e",))
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout[-2000:]
        skips = re.findall(r"^SKIPPED .*", done.stdout, re.MULTILINE)
        assert [line for line in skips if "not as a plain user: " not in line] == []
    assert [path for path in Path("/tmp").glob("pyb-????????") if path.stat().st_uid == NOBODY] == []
