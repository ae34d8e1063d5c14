"""`NamedTuple`: what typing's makes of a class, in a tenth of its time (docs/adr/0028).

A command makes one or two hundred such classes while it starts. typing checks and compiles each annotation and
collections compiles a constructor for each class, a fifth of a fully cached build's time together. Here annotations
are left alone, and the constructors of all classes with as many fields are one piece of code under other names.

Invariants: to type checkers this is `typing.NamedTuple`; when it runs, classes have the bases, fields, methods and
messages that typing gives them (tests/unit/unionfs/test_namedtuple.py compares). Left out is what type checkers refuse
or nothing here needs: generic tuples, the call ``NamedTuple("Name", …)``, the check of fields' names.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

__all__ = ["NamedTuple"]

_new: Callable[..., Any] = vars(tuple)["__new__"]
_model = namedtuple("_model", "field")  # noqa: PYI024 # pyright: ignore[reportUntypedNamedTuple]
_field = cast("Callable[[int, str], object]", type(vars(_model)["field"]))
"""The descriptor that collections gives to fields: it reads a place of the tuple without running Python code."""


@cache
def _constructor(count: int) -> FunctionType:
    """``(class, value, …) -> tuple`` for ``count`` values; a class has its code with the names of its fields."""
    values = "".join(f"v{place}, " for place in range(count))
    made: FunctionType = eval(f"lambda _cls, {values}: _new(_cls, ({values}))", {"_new": _new})  # noqa: S307
    return made


@cache
def _place(index: int) -> object:
    return _field(index, f"Alias for field number {index}")


def _make(cls: Any, values: Iterable[object]) -> Any:
    """A tuple of these values, as many as there are fields."""
    made = _new(cls, values)
    if len(made) != len(cls._fields):
        raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
    return made


def _replace(self: Any, /, **changes: object) -> Any:
    """The same tuple with other values in the named fields."""
    made = self._make(map(changes.pop, self._fields, self))
    if changes:
        raise TypeError(f"Got unexpected field names: {list(changes)!r}")
    return made


def _asdict(self: Any) -> dict[str, object]:
    """The values by name, in the order of the fields."""
    return dict(zip(self._fields, self, strict=True))


def _repr(self: Any) -> str:
    fields = ", ".join([f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True)])
    return f"{type(self).__name__}({fields})"


def _getnewargs(self: Any) -> tuple[object, ...]:
    """What copy and pickle call the class with."""
    return tuple(self)


_METHODS: Mapping[str, object] = {
    "__slots__": (),
    "__repr__": _repr,
    "__getnewargs__": _getnewargs,
    "_make": classmethod(_make),
    "_replace": _replace,
    "_asdict": _asdict,
}


def _fields_of(name: str, namespace: Mapping[str, Any]) -> dict[str, object]:
    """What the annotations of a class's body become."""
    fields = tuple(namespace.get("__annotations__", ()))
    defaults = {field: namespace[field] for field in fields if field in namespace}
    if tuple(defaults) != fields[len(fields) - len(defaults) :]:
        raise TypeError(f"a field of {name} without a default follows one that has one")
    model = _constructor(len(fields))
    code = model.__code__.replace(
        co_varnames=("_cls", *fields), co_name="__new__", co_qualname=f"{namespace['__qualname__']}.__new__"
    )
    return {
        "__new__": FunctionType(code, model.__globals__, "__new__", tuple(defaults.values()) or None),
        "__match_args__": fields,
        "_fields": fields,
        "_field_defaults": defaults,
        **{field: _place(index) for index, field in enumerate(fields)},
    }


class _Maker(type):
    """Makes of a class that is derived from `NamedTuple` one that is derived from tuple."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /) -> Any:
        if not bases:
            return super().__new__(cls, name, bases, namespace)
        return type(name, (tuple,), {**_METHODS, **namespace, **_fields_of(name, namespace)})


if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class NamedTuple(metaclass=_Maker):
        """The base that is written; the classes themselves are derived from tuple."""
