"""ADD of URLs gives what ``docker build`` gives: names, modes, owners and times, whatever the server says of a file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from harness.corpus import Case
from harness.laboratory import Laboratory, build, docker_image, our_image, prepare, unequal
from harness.web import Page, serving

DATE = "Thu, 02 Jan 2020 03:04:05 GMT"
DOCKERFILE = """FROM base
ADD URL/dir/file /one/
ADD URL/dir/file /two
ADD URL/dir/file?query=1#end /three/
ADD URL/undated /four/
ADD URL/dir/to%20file /five/
ADD --chown=3:4 URL/dir/file /six/seven/
ADD URL/moved /eight/
ADD URL/x.tgz /nine/
WORKDIR /ten
ADD URL/dir/file URL/undated ./
ADD URL/named/ /eleven/
ADD URL /twelve/
"""


def archive() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("member"))
    return raw.getvalue()


def test_files_by_http(laboratory: Laboratory, tmp_path: Path) -> None:
    with serving() as web:
        disposition = ("Content-Disposition", 'attachment; filename="given.txt"')
        web.pages |= {
            "/dir/file": Page(b"content\n", DATE, '"1"'),
            "/dir/file?query=1": Page(b"other\n", DATE),
            "/undated": Page(b"undated\n"),
            "/dir/to%20file": Page(b"blank\n", DATE),
            "/moved": Page(status=302, headers=(("Location", "/dir/file"),)),
            "/x.tgz": Page(archive(), DATE),
            "/named/": Page(b"named\n", DATE, headers=(disposition,)),
            "/": Page(b"root\n", DATE),
        }
        text = DOCKERFILE.replace("URL", web.url)
        case = Case("add-by-http", text, {}, (), None, None, frozenset(), (), None, always=True)
        prepared = prepare(case, tmp_path)
        theirs = docker_image(laboratory, case, prepared)
        build(laboratory, case, prepared)
        assert unequal(case, our_image(laboratory, case), theirs) == []


@pytest.mark.parametrize("answer", [Page(status=404), Page(status=500), Page(b"cut", cut_off=True)])
def test_both_refuse(laboratory: Laboratory, tmp_path: Path, answer: Page) -> None:
    with serving() as web:
        web.pages["/file"] = answer
        case = Case("add-refused", f"FROM base\nADD {web.url}/file /\n", {}, (), None, "", frozenset(), (), None, True)
        prepared = prepare(case, tmp_path)
        ours = laboratory.pybuild.attempt("build", prepared.context)
        assert ours.returncode == 1
        assert f">>> ADD {web.url}/file /" in ours.stderr
        with pytest.raises(pytest.fail.Exception):
            laboratory.dockerd.build(prepared.context, case.name)
