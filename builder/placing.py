"""What goes wrong in a step knows where the step is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from builder.errors import BuildError, describe_os_error, room_hints
from builder.graph import Step
from builder.owners import owner_hints
from layers.errors import LayersError
from unionfs.errors import UnionError
from unionfs.mounting import MountError


@contextmanager
def placed_at(step: Step, *, ignored: bool) -> Generator[None]:
    """What goes wrong inside the block is a BuildError that knows the lines of ``step``.

    ``ignored``: what gives files to others does nothing.
    """
    try:
        yield
    except BuildError as error:
        error.hints = error.hints or room_hints(error) or owner_hints(error, ignored=ignored)
        raise error.at(step.source) from error.__cause__
    except (LayersError, UnionError, OSError) as error:
        message = describe_os_error(error) if isinstance(error, OSError) else str(error)
        hints = (error.hint,) if isinstance(error, MountError) and error.hint else room_hints(error)
        raise BuildError(message, source=step.source, hints=hints or owner_hints(error, ignored=ignored)) from error
