"""Every stage of a Dockerfile made into steps without building any: what a build would refuse is refused here.

Invariants: nothing is run, written or fetched; of several mistakes the first one in the file is told.  Where a base
image is not in the store, its variables are not known either: a line with a variable is then taken to be right.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.bases import Base
from builder.convert import convert
from builder.convert.arguments import EPOCH
from builder.convert.epoch import plan_epoch
from builder.dockerfile.source import SourceRange
from builder.errors import BuildError
from builder.graph import BaseImage, BaseRef
from builder.options import BuildOptions
from builder.planning import Plan, find_local_bases, needed_bases
from layers.config import DEFAULT_PATH, ImageConfig
from layers.store import Store

_NO_DIGEST = "sha256:" + "0" * 64


def rehearse(plan: Plan, options: BuildOptions, store: Store | None) -> Mapping[str, Base]:
    """The bases that ``store`` has, by key; all stages are right, or those of ``options.target`` where it is given.

    Raises:
        BuildError: a build would refuse the Dockerfile whatever the context holds; placed at its line.
    """
    if plan_epoch(plan.dockerfile, options.build_args, plan.platform, plan.contexts.named) is not None:
        options = options._replace(build_args={**options.build_args, EPOCH: "0"})
    last = len(plan.dockerfile.stages) - 1
    known: dict[str, Base] = {}
    seen: set[int] = set()
    mistakes: list[BuildError] = []
    for number in range(last, -1, -1) if options.target is None else (last,):
        if number in seen:
            continue
        asked = options if number == last else options._replace(target=str(number))
        try:
            found, missing = _find(plan, asked, store)
            known.update(found)
            seen.update(_convert(plan, asked, found, missing))
        except BuildError as error:
            mistakes.append(error)
    if mistakes:
        raise min(mistakes, key=lambda error: error.source.start if error.source else 0)
    return known


def _find(plan: Plan, options: BuildOptions, store: Store | None) -> tuple[Mapping[str, Base], tuple[BaseRef, ...]]:
    if store is None:
        return {}, needed_bases(plan, {}, options)
    return find_local_bases(plan, options, store)


def _convert(
    plan: Plan, options: BuildOptions, found: Mapping[str, Base], missing: tuple[BaseRef, ...]
) -> tuple[int, ...]:
    """The numbers of the stages that are right."""
    bases = {key: base.image for key, base in found.items()}
    bases.update((ref.key, _stand_in(ref)) for ref in missing)
    try:
        graph = convert(
            plan.dockerfile,
            bases,
            build_args=options.build_args,
            target=options.target,
            platform=plan.platform,
            source_date_epoch=options.source_date_epoch,
            contexts=plan.contexts.named,
        )
    except BuildError as error:
        if missing and error.source is not None and _has_variable(plan, error.source):
            return ()
        raise
    return graph.stages


def _stand_in(ref: BaseRef) -> BaseImage:
    config = ImageConfig(architecture=ref.platform.architecture, os=ref.platform.os, env=(f"PATH={DEFAULT_PATH}",))
    return BaseImage(config, _NO_DIGEST)


def _has_variable(plan: Plan, place: SourceRange) -> bool:
    lines = plan.dockerfile.source.text.split("\n")[place.start - 1 : place.end]
    return any("$" in line for line in lines)
