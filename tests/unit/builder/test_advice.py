"""What is said to help, by what was refused."""

from __future__ import annotations

import errno

import pytest

from builder.advice import hints_for
from layers.errors import ImageNotFoundError, LayersError, StoreError
from layers.registry.errors import DeniedError, UnauthorizedError
from layers.storage import store_error

ELSEWHERE = "--root DIR puts the store elsewhere, and so does XDG_DATA_HOME"


def refused(number: int) -> StoreError:
    error = OSError(number, "no")
    found = store_error("/s", error)
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ImageNotFoundError("x"), "pybuild images lists what is there"),
        (UnauthorizedError("r.example:5000/a/b:1", "unauthorized"), "pybuild login r.example:5000 keeps credentials"),
        (DeniedError("r.example/a", "denied"), "pybuild login r.example keeps credentials"),
        (refused(errno.EROFS), ELSEWHERE),
        (refused(errno.EACCES), ELSEWHERE),
        (refused(errno.ENOSPC), "pybuild cache prune --all makes room, --root DIR puts the store on another disk"),
    ],
)
def test_one_hint(error: LayersError, hint: str) -> None:
    assert hints_for(error) == (hint,)


@pytest.mark.parametrize("error", [UnauthorizedError("r.example", "no"), refused(errno.EIO), StoreError("damaged")])
def test_nothing_is_said_where_nothing_is_known(error: LayersError) -> None:
    assert hints_for(error) == ()
