"""A graph and what its steps left become an image: configuration and manifest, as values.

Invariants: pure; the same graph and results give the same bytes, so that a cached build gives the image id it gave
before.  Rules: image-spec, config.md; entries of ``history`` that are no empty layers match the diff IDs one to one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from builder.graph import Graph, Pull, StepId
from builder.options import Annotation
from builder.results import StepResult
from layers.config import History, RootFS
from layers.descriptor import NOTHING, Descriptor
from layers.digest import Digest, sha256
from layers.image import Image
from layers.manifest import Manifest
from layers.media import OCI_CONFIG
from layers.platform import Platform, parse

_BASE = "org.opencontainers.image.base"


def assemble(
    graph: Graph,
    results: Mapping[StepId, StepResult],
    labels: Mapping[str, str],
    annotations: Mapping[str, str] = NOTHING,
) -> Image:
    """The image of ``graph``, with ``labels`` and ``annotations`` besides its own; it is not in the store yet.

    With an epoch, its times are set to that.
    """
    layers = () if graph.final is None else results[graph.final].layers
    history, created = _history(graph, results)
    config = graph.config._replace(
        rootfs=RootFS(tuple(Digest(layer.diff_id) for layer in layers)),
        history=graph.config.history + history,
        created=created,
        labels={**graph.config.labels, **labels},
    )
    config_bytes = config.to_bytes()
    descriptor = Descriptor(OCI_CONFIG, sha256(config_bytes), len(config_bytes))
    said = {**_base_annotations(graph), **annotations}
    return Image(Manifest.create(descriptor, [layer.descriptor for layer in layers], said), config, config_bytes)


def manifest_annotations(annotations: Sequence[Annotation], platform: Platform) -> dict[str, str]:
    """Those of ``annotations`` that the manifest for ``platform`` gets."""
    return annotations_at("manifest", annotations, platform)


def annotations_at(level: str, annotations: Sequence[Annotation], platform: Platform | None) -> dict[str, str]:
    """Those of ``annotations`` of that level, of a manifest those that are for ``platform`` or for all."""
    return {
        one.key: one.value
        for one in annotations
        if one.level == level and (one.platform is None or platform is None or parse(one.platform) == platform)
    }


def _base_annotations(graph: Graph) -> dict[str, str]:
    """On which image this one stands. Source: image-spec, annotations.md; written as buildah does."""
    bottom = graph.final_chain[0].operation if graph.final is not None else None
    if not isinstance(bottom, Pull):
        return {}
    name = bottom.reference.partition("@")[0]
    return {f"{_BASE}.name": name, f"{_BASE}.digest": bottom.manifest_digest}


def _history(graph: Graph, results: Mapping[StepId, StepResult]) -> tuple[tuple[History, ...], str | None]:
    """The entries of the graph's own instructions, and the time the image was made.

    An entry without a layer has the time of the layer before it: nothing else about it is older or newer.
    """
    fixed = None if graph.source_date_epoch is None else format_time(graph.source_date_epoch * 1_000_000_000)
    base = graph.config.history
    created = fixed or (base[-1].created if base else None)
    entries: list[History] = []
    for entry in graph.history:
        if fixed is None and entry.step is not None:
            created = results[entry.step].layers[-1].created or created
        entries.append(
            History(created, created_by=entry.created_by, comment=entry.comment, empty_layer=entry.empty_layer)
        )
    return tuple(entries), created


def format_time(time_ns: int) -> str:
    """``time_ns`` since the epoch as RFC 3339 in UTC with Go's nanoseconds: ``2026-01-02T03:04:05.000000006Z``."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest_ns:09d}".rstrip("0") if rest_ns else ""
    return f"{text}{fraction}Z"
