"""Unions over fresh branches, in process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.paths import UnionPaths
from unionfs.branch import Branch, BranchStack
from unionfs.types import Access, UnionOptions, WhiteoutForm
from unionfs.union import Union


class Stand:
    """Branches ``b0``, ``b1``, … below one directory, and unions over them that are closed in the end."""

    def __init__(self, base: Path, access: str = "rw ro") -> None:
        self.base = base
        self.access = [Access(word) for word in access.split()]
        self.roots = [base / f"b{number}" for number in range(len(self.access))]
        for root in self.roots:
            root.mkdir(exist_ok=True)
        self.unions: list[Union] = []

    def branches(self) -> tuple[Branch, ...]:
        return tuple(Branch(os.fsencode(root), access) for root, access in zip(self.roots, self.access, strict=True))

    def union(self, **options: Any) -> Union:
        union = Union(BranchStack(self.branches()), UnionOptions(**options))
        self.unions.append(union)
        return union

    def paths(self, **options: Any) -> UnionPaths:
        return UnionPaths(self.union(**options))

    def put(self, number: int, path: str, content: str | None = "") -> Path:
        """A file, or a directory when ``content`` is None, in a branch."""
        place = self.roots[number] / path
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        return place

    def names(self, number: int, path: str = "") -> list[str]:
        """Names in a directory of a branch, the union's own directory left out."""
        return sorted(name for name in os.listdir(self.roots[number] / path) if name != ".wh..unionfs")

    def close(self) -> None:
        for union in self.unions:
            union.close()
        for root in self.roots:
            assert not (root / ".wh..unionfs").exists(), "temporary things are left"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """A writable branch over a read-only one."""
    stand = Stand(tmp_path)
    yield stand
    stand.close()


@pytest.fixture
def stand_of(tmp_path: Path) -> Iterator[Any]:
    """``stand_of("rw ro rw")``: branches with these accesses, top first."""
    made: list[Stand] = []

    def make(access: str) -> Stand:
        base = tmp_path / str(len(made))
        base.mkdir()
        made.append(Stand(base, access))
        return made[-1]

    yield make
    for stand in made:
        stand.close()


@pytest.fixture(params=list(WhiteoutForm), ids=lambda form: form.value)
def form(request: pytest.FixtureRequest) -> WhiteoutForm:
    """Each form of whiteout that can be written."""
    return request.param
