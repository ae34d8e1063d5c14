"""docs/semantics.md is true: each row of its tables is a case here, or names the tests that prove it.

The tables of lookup and removal are read from the document and carried out row by row: by the pure functions, by the
oracle (``harness.merged``) and by a union over real branches. Rows in words are listed with their tests. A row that is
new, changed or gone fails here, as does a test that is gone.
"""

from __future__ import annotations

import ast
import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.merged import Directory, Entry, File, Merged, Whiteout
from harness.tables import shown_by
from unionfs.policy import Hide, Remove, plan_removal
from unionfs.resolve import Kind, Probe, resolve
from unionfs.types import DeleteMode

PROJECT = Path(__file__).parents[3]
DOCUMENT = PROJECT / "docs/semantics.md"


class Table(NamedTuple):
    """A table of the document; ``title`` is its first column's."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables() -> dict[str, Table]:
    found: dict[str, Table] = {}
    lines = DOCUMENT.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        if line.startswith("|") and not lines[number - 1].startswith("|"):
            table = Table(_cells(line)[0], _cells(line), [])
            assert table.title not in found
            found[table.title] = table
            for row in lines[number + 2 :]:
                if not row.startswith("|"):
                    break
                table.rows.append(_cells(row))
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


TABLES = tables()
LOOKUP, REMOVAL = TABLES["b0, b1, b2"], TABLES["instances"]


# -- lookup --------------------------------------------------------------------------------------------------------
KINDS = {
    "file": Kind.FILE,
    "dir": Kind.DIRECTORY,
    "opaque": Kind.DIRECTORY,
    "whiteout": Kind.WHITEOUT,
}


def held(word: str, position: int) -> dict[bytes, Entry]:
    """A branch in which ``n`` is what the word says."""
    inside: dict[bytes, Entry] = {b"in b%d" % position: File()}
    made = {
        "file": File(b"b%d" % position),
        "dir": Directory(inside),
        "opaque": Directory(inside, opaque=True),
        "whiteout": Whiteout("aufs"),
    }
    return {b"n": made[word]} if word in made else {}


@pytest.mark.parametrize("row", LOOKUP.rows, ids=lambda row: row[0])
def test_lookup(row, stand_of):
    words = row[0].split(", ")
    shown, positions, floor = row[1], tuple(map(int, re.findall(r"b(\d)", row[2]))), row[3]
    probes = [Probe(position, KINDS.get(word, Kind.ABSENT), word == "opaque") for position, word in enumerate(words)]
    found = resolve(probes, 2)
    assert {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.WHITEOUT: "nothing"}[found.kind] == shown
    assert found.positions == positions
    if floor:
        assert found.floor == (2 if floor == "that of the parent" else int(floor))
    stand = stand_of("rw ro ro")
    for position, word in enumerate(words):
        if word in KINDS:
            path = {"whiteout": ".wh.n", "file": "n"}.get(word, f"n/in b{position}")
            stand.put(position, path, f"b{position}" if word == "file" else "")
        if word == "opaque":
            stand.put(position, "n/.wh..wh..opq")
    got = shown_by(stand.paths())
    assert got == Merged([Directory(held(word, position)) for position, word in enumerate(words)], ()).shown()
    if shown == "directory":
        assert set(got[b"n"].entries) == {b"in b%d" % position for position in positions}


# -- removal -------------------------------------------------------------------------------------------------------
def numbers(cell: str) -> list[int]:
    return [] if cell == "none" else [int(word) for word in cell.split(", ")]


@pytest.mark.parametrize("mode", list(DeleteMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("row", REMOVAL.rows, ids=lambda row: f"{row[0]} of {row[1]}")
def test_removal(row, mode, stand_of):
    instances, writable = numbers(row[0]), numbers(row[1])
    cell = row[REMOVAL.columns.index(mode.value)]
    count = max(*instances, *writable, 1) + 1
    stand = stand_of(" ".join("rw" if position in writable else "ro" for position in range(count)))
    for position in instances:
        stand.put(position, "n", f"b{position}")
    paths = stand.paths(delete=mode)
    if cell == "EROFS":
        with pytest.raises(OSError) as planned:
            plan_removal(instances, writable, mode)
        with pytest.raises(OSError) as done:
            paths.unlink(b"n")
        assert planned.value.errno == done.value.errno == errno.EROFS
        assert paths.read(b"n") == b"b%d" % instances[0]
        return
    actions = re.findall(r"([HR])(\d)", cell)
    planned_actions = tuple(Hide(int(position)) if word == "H" else Remove(int(position)) for word, position in actions)
    assert plan_removal(instances, writable, mode) == planned_actions
    paths.unlink(b"n")
    next_shown = re.search(r"b(\d) shows", cell)
    assert paths.list(b"") == ([b"n"] if next_shown else [])
    if next_shown:
        assert paths.read(b"n") == b"b%s" % next_shown[1].encode()
    for position in range(count):
        expected = {"n"} if position in instances else set()
        for action in planned_actions:
            if action.position == position:
                expected = expected | {".wh.n"} if isinstance(action, Hide) else expected - {"n"}
        assert set(stand.names(position)) == expected


# -- rows in words ---------------------------------------------------------------------------------------------------
UNIT = "tests/unit/unionfs/"
TABLES_HERE = UNIT + "test_tables.py::test_two_branches"
PROOFS: dict[str, dict[str, list[str]]] = {
    "top branch with a claim says": {
        word: [UNIT + "test_resolve.py::test_a_name_is_what_the_topmost_claims_make_of_it", TABLES_HERE]
        for word in ("whiteout", "file (anything but a directory)", "directory")
    },
    "create=": {
        word: [UNIT + "test_policy.py::test_a_new_entry_goes_where_the_policy_says"]
        for word in ("parent", "top", "mfs", "rr")
    },
    "kept": {
        "content, holes": [UNIT + "test_copyup.py::test_holes_stay_holes"],
        "owner, mode, xattrs, ACLs, capabilities, times": [
            UNIT + "test_copyup.py::test_metadata_comes_along",
            UNIT + "test_copyup.py::test_owner_setuid_capability_and_acl_come_along",
        ],
        "inode number": [
            UNIT + "test_posix.py::test_inode_numbers_and_links_survive_every_change",
            UNIT + "test_origins.py::test_numbers_stay_over_a_remount",
        ],
        "times of the directory": [UNIT + "test_copyup.py::test_metadata_comes_along"],
        "hard links": [
            UNIT + "test_copyup.py::test_names_of_one_lower_file_become_one_upper_file",
            UNIT + "test_copyup.py::test_removing_the_copied_name_keeps_the_content_for_the_others",
        ],
    },
    "case": {
        "source on a writable branch, nothing above it claims the new name": [
            UNIT + "test_policy.py::test_a_rename_takes_place_where_nothing_hides_the_new_name",
            UNIT + "test_rename.py::test_a_whole_directory_on_a_lower_writable_branch_is_renamed_there",
        ],
        "otherwise": [
            UNIT + "test_rename.py::test_a_lower_file_is_copied_up_and_hidden_under_its_old_name",
            UNIT + "test_rename.py::test_a_target_hidden_above_takes_the_rename_up",
        ],
        "merged directory": [
            UNIT + "test_rename.py::test_a_merged_directory_is_raised_whole",
            UNIT + "test_rename.py::test_redirect_off_gives_exdev_for_merged_directories_only",
        ],
        "a lower instance of the old name would reappear": [
            UNIT + "test_rename.py::test_the_old_name_is_hidden_in_the_form_that_is_written",
            UNIT + "test_rename.py::test_a_filesystem_without_rename_whiteout",
        ],
        "target is an empty directory with marks": [
            UNIT + "test_rename.py::test_an_empty_directory_with_marks_is_replaced",
            UNIT + "test_rename.py::test_a_failed_replacement_of_a_directory_is_undone",
        ],
        "a directory onto a whiteout": [UNIT + "test_rename.py::test_renaming_back_and_forth", TABLES_HERE],
        "target has lower instances": [
            UNIT + "test_rename.py::test_lower_instances_of_the_target_go_when_all_are_deleted",
            TABLES_HERE,
        ],
        "RENAME_EXCHANGE": [UNIT + "test_posix.py::test_names_are_exchanged", TABLES_HERE],
    },
    "journal": {
        "a copy, with its inode number and a digest of its state": [
            "tests/property/test_crash.py::test_what_a_rename_has_copied_is_taken_back",
            "tests/property/test_crash.py::test_what_was_changed_after_the_death_stays",
        ],
        "a directory made opaque": ["tests/property/test_crash.py::test_taking_back_may_die_too"],
    },
    "mark": {
        word: [
            UNIT + "test_whiteout.py::test_a_whiteout_of_any_form_hides_files_and_directories",
            UNIT + "test_whiteout.py::test_an_opaque_directory_of_any_form_cuts_off_what_is_below",
        ]
        for word in ("whiteout", "opaque")
    },
    "passthrough=": {
        "off": [UNIT + "test_files.py::test_a_reader_sees_what_is_written_after_the_copy_up"],
        "auto": [UNIT + "test_files.py::test_auto_passes_only_what_no_copy_up_can_make_stale"],
        "fast": [UNIT + "test_files.py::test_fast_hands_a_written_lower_file_over_to_a_new_node"],
    },
}


def test_every_row_is_proved():
    in_words = {
        title: {row[0] for row in table.rows}
        for title, table in TABLES.items()
        if title not in {LOOKUP.title, REMOVAL.title}
    }
    assert in_words == {title: set(rows) for title, rows in PROOFS.items()}


def test_every_proof_is_there():
    for proof in sorted({proof for rows in PROOFS.values() for proofs in rows.values() for proof in proofs}):
        path, name = proof.split("::")
        module = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
        assert name in {one.name for one in module.body if isinstance(one, ast.FunctionDef)}, proof


def test_the_document_names_tests_that_are_there():
    text = DOCUMENT.read_text(encoding="utf-8")
    for path in re.findall(r"`(tests/[a-z_/]*\.py)`", text):
        assert os.path.exists(PROJECT / path), path
