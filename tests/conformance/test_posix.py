"""Every POSIX case on every target; what a target cannot do is listed there with the reason, and is really so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.posix_cases import ALL, Case, as_nobody
from conformance.targets import TARGETS, Where, origins, run, seed_lower

pytestmark = pytest.mark.fuse
LISTS = "FUSE has access control lists in the first user namespace alone (posix_acl in fs/fuse)"
SUPERUSER = "the kernel leaves setuid to root of the machine alone, on any filesystem"
RESERVED = {
    "access_control_list_is_kept": LISTS,
    "default_access_control_list_is_inherited": LISTS,
    "write_by_the_superuser_keeps_setuid": SUPERUSER,
}
"""Case → why root of a user namespace cannot have it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows = [
        pytest.param(
            where,
            origin,
            case,
            id=f"{where.name}-{origin}-{case.name}",
            marks=_marks(case),
        )
        for where in TARGETS
        for origin in origins(where)
        for case in ALL
    ]
    metafunc.parametrize(("target", "origin", "case"), rows, indirect=["target"], scope="module")


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.root(RESERVED[case.name])] if case.name in RESERVED else []
    if as_nobody.__name__ in case.run.__code__.co_names:
        marks.append(pytest.mark.owners("becomes another user"))
    return marks


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Where, Path]]:
    where: Where = request.param
    base = tmp_path_factory.mktemp(where.name)
    for directory in (base, base.parent, base.parent.parent):
        directory.chmod(0o755)  # for the cases of other users
    seed_lower(base, where)
    with where.make(base) as root:
        yield where, root


def test_posix(target: tuple[Where, Path], origin: str, case: Case) -> None:
    where, root = target
    if f"{origin}:{case.name}" in where.gaps:
        with pytest.raises((OSError, AssertionError)):
            run(root, origin, case)
    else:
        run(root, origin, case)
