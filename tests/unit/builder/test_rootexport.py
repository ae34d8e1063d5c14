"""The files of a result as a directory or a tar: ``-o type=local`` and ``-o type=tar``."""

import os
import subprocess
import tarfile

import pytest

from builder.cli.main import main
from harness.abilities import missing_for_owners


@pytest.fixture
def build(tmp_path):
    """Builds from scratch; gives the arguments' status."""
    context = tmp_path / "context"
    (context / "d").mkdir(parents=True)
    (context / "d" / "a").write_text("content")
    (context / "d" / "a").chmod(0o750)
    os.link(context / "d" / "a", context / "d" / "b")
    (context / "d" / "link").symlink_to("/d/a")
    chown = "--chown=7:8" if missing_for_owners() is None else ""
    (context / "Dockerfile").write_text(f"FROM scratch\nCOPY {chown} d /d/\n")

    def build(*arguments: str) -> int:
        return main(["build", "-q", "--root", str(tmp_path / "store"), *arguments, str(context)])

    return build


@pytest.mark.owners("gives files away")
def test_directory_belongs_to_who_builds_and_tar_keeps_owners(build, tmp_path):
    assert build("-o", str(tmp_path / "out"), "-o", f"type=tar,dest={tmp_path}/out.tar") == 0
    out = tmp_path / "out"
    assert (out / "d" / "a").read_text() == "content"
    assert (out / "d" / "a").stat().st_mode & 0o7777 == 0o750
    assert (out / "d" / "a").stat().st_uid == os.getuid()
    assert (out / "d" / "a").samefile(out / "d" / "b")
    assert os.readlink(out / "d" / "link") == "/d/a"
    with tarfile.open(tmp_path / "out.tar") as archive:
        members = {member.name: member for member in archive}
    assert sorted(members) == ["d", "d/a", "d/b", "d/link"]
    assert (members["d/a"].uid, members["d/a"].gid, members["d/a"].mode) == (7, 8, 0o750)
    assert members["d/b"].islnk()


def test_tar_on_stdout_is_alone_there(build, capfdbinary, tmp_path):
    assert build("-o", "-") == 0
    (tmp_path / "got.tar").write_bytes(capfdbinary.readouterr().out)
    listed = subprocess.run(["tar", "-tf", tmp_path / "got.tar"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["d/", "d/a", "d/b", "d/link"]


def test_files_that_are_there_stay_and_the_image_s_win(build, tmp_path):
    out = tmp_path / "out"
    (out / "d").mkdir(parents=True)
    (out / "d" / "a").write_text("old")
    (out / "mine").write_text("mine")
    assert build("-o", f"type=local,dest={out}") == 0
    assert (out / "d" / "a").read_text() == "content"
    assert (out / "mine").read_text() == "mine"


def test_a_link_in_the_directory_does_not_lead_out(build, tmp_path, capfd):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d").symlink_to(elsewhere)
    assert build("-o", str(tmp_path / "out")) == 1
    assert list(elsewhere.iterdir()) == []
    assert "'/d' is not a directory" in capfd.readouterr().err


def test_a_file_in_the_way_is_named(build, tmp_path, capfd):
    (tmp_path / "out").write_text("a file")
    assert build("-o", str(tmp_path / "out")) == 1
    assert "out': file exists" in capfd.readouterr().err
