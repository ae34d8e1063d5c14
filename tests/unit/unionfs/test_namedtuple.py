"""Classes of unionfs.namedtuple beside typing's of the same text: nothing that a program sees of them differs."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unionfs.namedtuple


def classes(base: Any) -> dict[str, Any]:
    class Empty(base):
        pass

    class One(base):
        """With words."""

        value: int

        @property
        def twice(self) -> int:
            return 2 * self.value

        def __str__(self) -> str:
            return f"<{self.value}>"

    class Several(base):
        name: str
        kind: typing.Literal["a", "b"]
        not_known_here: Unknown | None = None  # noqa: F821 - annotations are not looked at
        items: tuple[One, ...] = ()

        @classmethod
        def make(cls, name: str) -> Any:
            return cls(name, "a")

        def __repr__(self) -> str:
            return "Several"

    class Base(base):
        left: int
        right: int = 2

    class Derived(Base):
        __slots__ = ()

        def __repr__(self) -> str:
            return "+" + super().__repr__()

    class Wide(base):
        __annotations__ = {f"field{number}": "int" for number in range(40)}

    return {kind.__name__: kind for kind in (Empty, One, Several, Base, Derived, Wide)}


THEIRS = classes(typing.NamedTuple)
OURS = classes(unionfs.namedtuple.NamedTuple)
FIELDS = {name: len(kind._fields) for name, kind in THEIRS.items()}


def told(what: Callable[[], object]) -> str:
    """What is seen, or the message of what was raised; names of classes say nothing of where they were made."""
    try:
        seen = repr(what())
    except (TypeError, ValueError, AttributeError) as error:
        seen = f"{type(error).__name__}: {error}".replace("ValueError: Got", "TypeError: Got")  # as since Python 3.13
    return re.sub(r"<lambda>|classes\.<locals>\.\w+\.__new__|\w+\.__new__", "__new__", seen)


USES: dict[str, Callable[[Any, int], object]] = {
    "made by place": lambda kind, count: kind(*range(count)),
    "made by name": lambda kind, count: kind(**dict.fromkeys(kind._fields, count)),
    "defaults": lambda kind, _: kind(1),
    "nothing given": lambda kind, _: kind(),
    "too many": lambda kind, count: kind(*range(count + 1)),
    "unknown name": lambda kind, count: kind(*range(count), other=1),
    "twice given": lambda kind, _: kind(1, **{kind._fields[0]: 1}) if kind._fields else None,
    "text": lambda kind, count: str(kind(*range(count))),
    "shape": lambda kind, _: (kind._fields, kind._field_defaults, kind.__match_args__, kind.__slots__, kind.__doc__),
    "bases": lambda kind, _: ([base.__name__ for base in kind.__mro__], type(kind)),
    "annotations": lambda kind, _: list(getattr(kind, "__annotations__", {})),
    "signature": lambda kind, _: [(one.name, one.kind, one.default) for one in parameters(kind)],
    "make": lambda kind, count: kind._make(iter(range(count))),
    "make of too few": lambda kind, count: kind._make(range(count - 1)),
    "replace": lambda kind, count: kind(*range(count))._replace(**dict.fromkeys(kind._fields[-1:], "new")),
    "replace unknown": lambda kind, count: kind(*range(count))._replace(other=1),
    "as dictionary": lambda kind, count: kind(*range(count))._asdict(),
    "as tuple": lambda kind, count: (kind(*range(count)) == tuple(range(count)), hash(kind(*range(count)))),
    "places": lambda kind, count: [getattr(kind(*range(count)), name) for name in kind._fields],
    "set": lambda kind, count: setattr(kind(*range(count)), "name", 1),
    "new attribute": lambda kind, count: setattr(kind(*range(count)), "other", 1),
    "copy": lambda kind, count: copy.copy(kind(*range(count))),
    "copied type": lambda kind, count: type(copy.deepcopy(kind(*range(count)))) is kind,
    "methods": lambda kind, _: [kind.make("x"), kind.make("x").items] if kind.__name__ == "Several" else None,
    "property": lambda kind, _: kind(4).twice if kind.__name__ == "One" else None,
    "description": lambda kind, _: [getattr(kind, name).__doc__ for name in kind._fields],
}


def parameters(kind: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(kind).parameters.values())


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", THEIRS)
def test_is_what_typing_makes(name: str, use: str) -> None:
    count = FIELDS[name]
    expected = told(lambda: USES[use](THEIRS[name], count))
    if use == "shape" and THEIRS[name].__doc__ is not None and name != "One":
        # typing describes the fields where a class says nothing of itself; nobody reads it here
        expected = expected.replace(repr(THEIRS[name].__doc__), "None")
    assert told(lambda: USES[use](OURS[name], count)) == expected


class Pickled(unionfs.namedtuple.NamedTuple):
    first: int
    second: str = "two"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_pickling(protocol: int) -> None:
    read = pickle.loads(pickle.dumps(Pickled(1), protocol))
    assert (type(read), read) == (Pickled, (1, "two"))


def test_matches_by_place_and_by_name() -> None:
    match Pickled(1):
        case Pickled(1, second=text):
            assert text == "two"
        case _:
            pytest.fail("does not match")


@pytest.mark.parametrize("base", [typing.NamedTuple, unionfs.namedtuple.NamedTuple])
def test_refuses_a_default_before_a_field_without(base: Any) -> None:
    with pytest.raises(TypeError, match="default"):

        class Wrong(base):
            first: int = 1
            second: int


def test_the_product_has_no_other(project_root: Path) -> None:
    """typing's is for one module, and for what is not the product."""
    taken = re.compile(r"^\s*from typing import .*\bNamedTuple\b|\btyping\.NamedTuple\(", re.MULTILINE)
    packages = [project_root / name for name in ("unionfs", "layers", "cache", "builder")]
    users = [path for package in packages for path in package.rglob("*.py") if taken.search(path.read_text())]
    assert users == [project_root / "unionfs" / "namedtuple.py"]
