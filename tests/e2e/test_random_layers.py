"""Random changes of a few names, layer upon layer, leave what they leave on overlayfs: the same root, the same layers.

The seed is part of a test's name, so a failure is a case to be run again. CORPUS=all runs more of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from harness.corpus import Case
from harness.images import needless_whiteouts
from harness.laboratory import Laboratory, build, docker_image, our_image, prepare, unequal
from harness.trees import Ignored

SEEDS = range(40) if os.environ.get("CORPUS") == "all" else range(2)
LAYERS = 6
STEPS = 7
NAMES = ("a", "b", "c", "a/x", "a/y", "b/x", "b/x/deep", "c/z", "a/x/q")
CHANGES = (
    "echo {word} > {one}",
    "echo {word} >> {one}",
    "mkdir -p {one}",
    "mkdir -p {one}; touch {one}/in",
    "rm -rf {one}",
    "rm -rf {one}; mkdir {one}",
    "rm -rf {one}; echo {word} > {one}",
    "rm -rf {one}; ln -s {word} {one}",
    "cp -a {one} {two}",
    "chmod 7{mode} {one}",
    "chown -h {number}:{number} {one}",
    "touch -h -d @15000000{mode} {one}",
    "rm -rf {one}; mknod {one} c 1 3",
)
RENAMES = ("rm -rf {two}; mv {one} {two}", "mv {one} {two}")
RULES = (
    Ignored(
        "*", ("mtime",), "overlayfs refuses to rename a directory of a lower layer, so that mv copies: other times"
    ),
    Ignored("*", ("layers",), "what was copied and removed again leaves other traces than what was renamed"),
)


def dockerfile(seed: int, among: tuple[str, ...]) -> str:
    """Random, and the same for every run of a seed. A change that is refused is none."""
    choose = random.Random(seed)
    lines = ["FROM base", "WORKDIR /w"]
    for layer in range(LAYERS):
        changes = [
            choose.choice(among).format(
                one=choose.choice(NAMES),
                two=choose.choice(NAMES),
                word=f"w{layer}{choose.randrange(10)}",
                mode=choose.choice(("00", "11", "55", "77")),
                number=choose.randrange(1, 9),
            )
            for _ in range(STEPS)
        ]
        lines.append(f"RUN ({'; '.join(changes)}) 2> /dev/null; find . | sort > /list{layer}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_equal_those_of_docker_build(laboratory: Laboratory, tmp_path: Path, seed: int) -> None:
    compare_builds(laboratory, tmp_path, f"random-{seed}", dockerfile(seed, CHANGES))


@pytest.mark.parametrize("seed", SEEDS)
def test_root_with_renames_equals_that_of_docker_build(laboratory: Laboratory, tmp_path: Path, seed: int) -> None:
    compare_builds(laboratory, tmp_path, f"renames-{seed}", dockerfile(seed, CHANGES + RENAMES), RULES)


def compare_builds(
    laboratory: Laboratory, directory: Path, name: str, text: str, rules: tuple[Ignored, ...] = ()
) -> None:
    """Fails when the images of the Dockerfile differ in more than the rules cover."""
    case = Case(name, text, {}, (), None, None, frozenset(), (), None, always=True)
    prepared = prepare(case, directory)
    theirs = laboratory.helper.submit(docker_image, laboratory, case, prepared)
    try:
        build(laboratory, case, prepared)
    finally:
        theirs.exception()
    found = unequal(case, our_image(laboratory, case), theirs.result(), rules)
    found += needless_whiteouts(our_image(laboratory, case))
    if found:
        pytest.fail("\n".join((case.dockerfile, *found)), pytrace=False)
