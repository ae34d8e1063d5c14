"""A graph and what its steps left become an image: configuration and manifest, as values.

Invariants: pure; the same graph and results give the same bytes, so that a cached build gives the image id it gave
before.  Rules: image-spec, config.md; entries of ``history`` that are no empty layers match the diff IDs one to one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from builder.graph import Graph, StepId
from builder.results import StepResult
from layers.config import History, ImageConfig, RootFS
from layers.descriptor import Descriptor
from layers.digest import Digest, sha256
from layers.manifest import Manifest
from layers.media import OCI_CONFIG
from layers.store import StoredImage


class AssembledImage(NamedTuple):
    """An image that is not in the store yet: the bytes of its configuration, and its manifest."""

    config: ImageConfig
    config_bytes: bytes
    manifest: Manifest

    @property
    def image_id(self) -> Digest:
        """Digest of the configuration: the name by which docker knows an image."""
        return self.manifest.config.digest

    @property
    def stored(self) -> StoredImage:
        """The image as the store knows it, under no name."""
        descriptor = self.manifest.descriptor(self.config.platform)
        return StoredImage((), descriptor, self.manifest, self.config)


def assemble(graph: Graph, results: Mapping[StepId, StepResult], labels: Mapping[str, str]) -> AssembledImage:
    """The image of ``graph``, with ``labels`` besides its own. With an epoch, its times are set to that."""
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
    manifest = Manifest.create(descriptor, [layer.descriptor for layer in layers])
    return AssembledImage(config, config_bytes, manifest)


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
