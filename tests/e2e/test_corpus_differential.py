"""Every Dockerfile of the corpus gives the image that ``docker build`` gives: root, configuration, and layers.

Where CORPUS=all is not set, the cases marked ``always`` run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from harness.corpus import Case, read_corpus
from harness.images import needless_whiteouts, root_of
from harness.laboratory import Laboratory, build, docker_image, file_arguments, our_image, prepare, unequal
from harness.pybuild import step_outcomes
from harness.trees import differences

EVERYTHING = os.environ.get("CORPUS") == "all"
CASES = read_corpus()
SELECTED = [case for case in CASES if EVERYTHING or case.always]
BUILT = [case for case in SELECTED if case.refused is None]
REFUSED = [case for case in SELECTED if case.refused is not None]
AGAIN = BUILT if EVERYTHING else BUILT[::12]
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.mark.parametrize("case", BUILT, ids=lambda case: case.name)
def test_image_equals_that_of_docker_build(laboratory: Laboratory, tmp_path: Path, case: Case) -> None:
    prepared = prepare(case, tmp_path)
    theirs = laboratory.helper.submit(docker_image, laboratory, case, prepared)
    try:
        build(laboratory, case, prepared)
    finally:
        theirs.exception()
    ours = our_image(laboratory, case)
    found = unequal(case, ours, theirs.result()) + needless_whiteouts(ours)
    if found:
        pytest.fail("\n".join(found), pytrace=False)
    outcomes = step_outcomes(build(laboratory, case, prepared))
    assert set(outcomes.values()) <= {"CACHED"}
    assert our_image(laboratory, case).identity == ours.identity


@pytest.mark.slow
@pytest.mark.parametrize("case", AGAIN, ids=lambda case: case.name)
def test_builds_the_same_again(laboratory: Laboratory, tmp_path: Path, case: Case) -> None:
    prepared = prepare(case, tmp_path)
    # times of files are no part of a key: another case's result may have others
    build(laboratory, case, prepared, "--no-cache")
    first = our_image(laboratory, case)
    build(laboratory, case, prepared, "--no-cache")
    assert differences(root_of(our_image(laboratory, case)), root_of(first), case.ignored) == []
    if case.random is None:
        build(laboratory, case, prepared, "--no-cache", env=EPOCH)
        dated = our_image(laboratory, case)
        build(laboratory, case, prepared, "--no-cache", env=EPOCH)
        again = our_image(laboratory, case)
        assert dated.config["rootfs"] == again.config["rootfs"]
        assert dated.identity == again.identity


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_both_refuse(laboratory: Laboratory, tmp_path: Path, case: Case) -> None:
    prepared = prepare(case, tmp_path)
    args = file_arguments(prepared.args, prepared.dockerfile)
    ours = laboratory.pybuild.attempt("build", *args, prepared.context)
    assert ours.returncode != 0
    assert re.search(case.refused or "", ours.stderr), ours.stderr
    with pytest.raises(pytest.fail.Exception):
        laboratory.dockerd.build(prepared.context, case.name, *file_arguments(prepared.args, prepared.reference))
