"""What a finished build tells: its image, where it went, what its steps used. On the cached-build path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.store import StoredImage
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from builder.events import Usage
    from builder.exporting import Push
    from layers.attestation import Predicate


class Material(NamedTuple):
    """Something from elsewhere that went into the build: its URI, and its digest by the name of the algorithm."""

    uri: str
    algorithm: str
    digest: str


class StepReport(NamedTuple):
    """What a step cost, for the metadata file."""

    title: str
    cached: bool
    duration_ns: int
    usage: Usage | None = None


class Work(NamedTuple):
    """What running steps has told: a report of each, and what they fetched."""

    reports: tuple[StepReport, ...] = ()
    materials: tuple[Material, ...] = ()


NO_WORK = Work()
"""All was in the cache."""


class Ready(NamedTuple):
    """Something to be pushed, whose plain layers get ``compression`` on the way.

    The descriptor of ``image`` may be that of an index, which is pushed as a whole.
    """

    push: Push
    image: StoredImage
    compression: str = "none"


class Exported(NamedTuple):
    """``root`` describes what is in the store: the manifest of one image, or an index; ``image_id`` names it."""

    image_id: Digest
    root: Descriptor
    pushes: tuple[Ready, ...]
    names: tuple[str, ...]


class BuildResult(NamedTuple):
    """A finished build. ``pushed`` are the digests of what was pushed, by name.

    ``predicates`` are what is said of the image of each platform, by the platform.
    """

    exported: Exported
    pushed: Mapping[str, str]
    work: Work
    predicates: Mapping[str, Sequence[Predicate]] = {}

    @property
    def image_id(self) -> Digest:
        """The digest of the configuration, of a multi-platform image that of its index."""
        return self.exported.image_id

    @property
    def manifest_digest(self) -> Digest:
        """The digest of what the names in the store refer to."""
        return self.exported.root.digest

    @property
    def names(self) -> tuple[str, ...]:
        """The names that were given."""
        return self.exported.names

    @property
    def steps(self) -> tuple[StepReport, ...]:
        """What each step used."""
        return self.work.reports

    def metadata(self) -> dict[str, Any]:
        """What ``--metadata-file`` holds: buildx's keys, and what each step used.

        The digest is the one the registry has where the image was pushed, whose layers are compressed there.
        """
        steps = [
            {**step._asdict(), "usage": None if step.usage is None else step.usage._asdict()} for step in self.steps
        ]
        root = self.exported.root
        fields: dict[str, Any] = (
            {} if self.image_id == root.digest else {"containerimage.config.digest": str(self.image_id)}
        )
        return {
            **fields,
            "containerimage.descriptor": root.to_json(),
            "containerimage.digest": next(iter(self.pushed.values()), str(root.digest)),
            "image.name": ",".join(self.names),
            **self._provenance(),
            "pybuild.pushed": dict(self.pushed),
            "pybuild.steps": steps,
        }

    def _provenance(self) -> dict[str, Any]:
        """Buildx's key of the provenance, with the platform behind a slash when there are several."""
        several = len(self.predicates) > 1
        return {
            f"buildx.build.provenance/{platform}" if several else "buildx.build.provenance": predicate.content
            for platform, predicates in self.predicates.items()
            for predicate in predicates
            if predicate.filename.startswith("provenance")
        }
