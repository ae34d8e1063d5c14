"""The contexts of a build, there for as long as it lasts, and the time that one of them gives.

On the cached-build path: directories need no event loop. Invariants: what was fetched is gone when the block is left;
a signal meanwhile ends it, and what was begun is undone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from builder.contexts import Contexts, are_local, open_contexts
from builder.convert.arguments import EPOCH, mentions_epoch
from builder.events import Journal, Outcome
from builder.options import BuildOptions
from builder.planning import Plan
from builder.rootless import become_root
from builder.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from builder.convert.epoch import EpochSource

T = TypeVar("T")


@contextmanager
def opened_contexts(options: BuildOptions, session: Session, journal: Journal) -> Generator[Contexts]:
    """The contexts of ``options``, there until the block is left. On the main thread where they must be fetched.

    Raises:
        BuildError: one of them makes no sense, is not there, or cannot be had; Interrupted: a signal came meanwhile.
    """
    with fetched_directories(session) as make:
        if are_local(options):
            yield open_contexts(options, session.root, make)
            return
        become_root(options.isolation)
        yield run_until_signal(lambda: fetch_contexts(options, session, journal, make))


@contextmanager
def fetched_directories(session: Session) -> Generator[Callable[[], Path]]:
    """A call that gives a new, empty directory each time; all of them are gone when the block is left."""
    with ExitStack() as stack:

        def make() -> Path:
            active = session.snapshotter.prepare("context", None)
            stack.callback(session.snapshotter.remove, active)
            return active.path

        yield make


async def fetch_contexts(
    options: BuildOptions, session: Session, journal: Journal, make: Callable[[], Path]
) -> Contexts:
    """The contexts of ``options``, those that must be fetched in directories of ``make``. Raises BuildError."""
    from builder import fetching

    if are_local(options):
        return open_contexts(options, session.root, make)
    return await _told(
        "[internal] load remote build context", journal, lambda: fetching.fetch_contexts(options, session.root, make)
    )


def find_time(plan: Plan, options: BuildOptions) -> EpochSource | None:
    """What `date_options` is to ask, None where SOURCE_DATE_EPOCH is a number or not given. Raises DockerfileError."""
    if not mentions_epoch(plan.dockerfile, options.build_args):
        return None
    from builder.convert.epoch import plan_epoch

    return plan_epoch(plan.dockerfile, options.build_args, plan.platform, plan.contexts.named)


async def date_options(
    asked: EpochSource, plan: Plan, options: BuildOptions, session: Session, journal: Journal
) -> BuildOptions:
    """``options`` with the seconds of what SOURCE_DATE_EPOCH names. Raises FetchError."""
    from builder import fetching

    return await _told(
        f"[internal] resolve {EPOCH}",
        journal,
        lambda: fetching.date_options(asked, plan.contexts, options, session.root),
    )


async def _told(title: str, journal: Journal, work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` returns, told as a step."""
    step = journal.start(title)
    try:
        result = await work()
    except Exception as error:
        step.finish(Outcome.FAILED, str(error))
        raise
    except BaseException:
        step.finish(Outcome.CANCELLED)
        raise
    step.finish(Outcome.DONE)
    return result


def run_until_signal(work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` returns, in an event loop of its own. Raises Interrupted."""
    import trio

    from builder.stopping import until_signal

    return trio.run(until_signal, work)
