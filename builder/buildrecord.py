"""What a build was, kept so that somebody can walk into one of its steps later: ``builds/<image id>.json``.

Invariants: a record says what is in the store, and makes nothing stay there: layers go when the cache is pruned, and
walking in says so. It appears by one rename. The environment of steps is in it, as it is in the image; secrets are not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from builder.errors import BuildError, UsageError
from builder.graph import Graph, Run, Setting, Step, StepId
from builder.results import LayerResult, StepResult
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.manifest import Manifest
from unionfs.namedtuple import NamedTuple

DIRECTORY = "builds"
_TITLE = re.compile(r"\[(?:(?P<stage>\S+) )? *(?P<number>\d+)/\d+\] (?P<text>.*)", re.DOTALL)
_SHOWN_COLUMNS = 70


class RecordedStep(NamedTuple):
    """One step. ``number`` counts in its ``stage``, as the progress does; ``base`` is the place of the step below.

    ``layers`` are those it adds, None where it was not done. ``lines`` are those of the Dockerfile.
    """

    stage: str
    number: int
    text: str
    lines: tuple[int, int]
    base: int | None
    layers: tuple[LayerResult, ...] | None
    setting: Setting
    network: str = "default"
    security: str = "sandbox"

    @property
    def title(self) -> str:
        """How people are told of it."""
        text = " ".join(self.text.split())
        shown = text if len(text) <= _SHOWN_COLUMNS else f"{text[: _SHOWN_COLUMNS - 1]}…"
        return f"{self.name}  {shown}"

    @property
    def name(self) -> str:
        """What names it behind an @."""
        return f"@{self.stage}:{self.number}" if self.stage else f"@{self.number}"


class BuildRecord(NamedTuple):
    """A build: of what Dockerfile, the steps in their order, the one that is its result or that failed."""

    dockerfile: str
    steps: tuple[RecordedStep, ...]
    last: int

    def to_json(self) -> dict[str, Any]:
        """The document `record_from_json` reads."""
        steps = [
            {
                **step._asdict(),
                "setting": step.setting._asdict(),
                "layers": None if step.layers is None else [_layer_json(layer) for layer in step.layers],
            }
            for step in self.steps
        ]
        return {"dockerfile": self.dockerfile, "steps": steps, "last": self.last}

    def stack(self, place: int | None) -> tuple[LayerResult, ...]:
        """The layers after the step at ``place``, from the bottom.

        Raises:
            BuildError: it, or one below it, was not done.
        """
        layers: list[LayerResult] = []
        while place is not None:
            step = self.steps[place]
            if step.layers is None:
                raise BuildError(f"step {step.title!r} was not done in that build")
            layers[:0] = step.layers
            place = step.base
        return tuple(layers)

    def find(self, text: str) -> int:
        """The place of the step that ``text`` names; an empty text is the last.

        ``N`` counts in the last stage, ``STAGE`` is its last step, ``STAGE:N``; ``:LINE`` or ``DOCKERFILE:LINE`` is the
        step of that line, or the last one before it.

        Raises:
            UsageError: there is none; the hint lists those that are there.
        """
        if not text:
            return self.last
        name, colon, number = text.rpartition(":")
        stages = {step.stage.lower() for step in self.steps}
        if not colon:
            stage = self.steps[self.last].stage if text.isdecimal() else text
            number = text if text.isdecimal() else ""
            found = self._numbered(stage, number)
        elif name and name.lower() in stages:
            found = self._numbered(name, number)
        elif name in {"", self.dockerfile, os.path.basename(self.dockerfile)}:
            found = self._on_line(number)
        else:
            found = []
        if not found:
            listed = "".join(f"\n  {step.title}" for step in self.steps)
            raise UsageError(f"the build has no step {text!r}", hints=(f"its steps are{listed}",))
        return found[-1]

    def _numbered(self, stage: str, number: str) -> list[int]:
        return [
            place
            for place, step in enumerate(self.steps)
            if step.stage.lower() == stage.lower() and number in {"", str(step.number)}
        ]

    def _on_line(self, number: str) -> list[int]:
        line = int(number) if number.isdecimal() else 0
        return sorted(
            (place for place, step in enumerate(self.steps) if 0 < step.lines[0] <= line),
            key=lambda place: self.steps[place].lines[0],
        )


def make_record(
    dockerfile: str, graph: Graph, results: Mapping[StepId, StepResult], last: StepId, begin: Setting
) -> BuildRecord:
    """The record of a build as far as it has ``results``; a stage that has only begun has the setting ``begin``."""
    return BuildRecord(dockerfile, tuple(_recorded(step, results, begin) for step in graph.steps), int(last))


def begin_of(config: ImageConfig) -> Setting:
    """What a command has where nothing but ``config`` says so."""
    return Setting(config.env, config.working_dir or "/", config.user, config.shell)


def _recorded(step: Step, results: Mapping[StepId, StepResult], begin: Setting) -> RecordedStep:
    match = _TITLE.fullmatch(step.title)
    result, below = results.get(step.id), None if step.base is None else results.get(step.base)
    count = 0 if below is None else len(below.layers)
    operation = step.operation
    return RecordedStep(
        stage=(match["stage"] or "") if match else "",
        number=int(match["number"]) if match else 0,
        text=match["text"] if match else step.title,
        lines=(step.source.start, step.source.end),
        base=None if step.base is None else int(step.base),
        layers=None if result is None else result.layers[count:],
        setting=step.setting or begin,
        network=operation.network if isinstance(operation, Run) else "default",
        security=operation.security if isinstance(operation, Run) else "sandbox",
    )


def record_of_image(name: str, manifest: Manifest, config: ImageConfig) -> BuildRecord:
    """What an image tells of itself: a step for each layer, by its history. The setting is always the image's own."""
    setting = begin_of(config)
    texts = [entry.created_by for entry in config.history if not entry.empty_layer]
    texts += ["a layer without history"] * (len(manifest.layers) - len(texts))
    steps: list[RecordedStep] = []
    for place, (descriptor, diff_id, chain) in enumerate(
        zip(manifest.layers, config.rootfs.diff_ids, config.rootfs.chain_ids, strict=True)
    ):
        layer = LayerResult(diff_id, chain, descriptor)
        base = place - 1 if place else None
        steps.append(RecordedStep("", place + 1, texts[place], (0, 0), base, (layer,), setting))
    if not steps:
        steps.append(RecordedStep("", 1, "no layers", (0, 0), None, (), setting))
    return BuildRecord(name, tuple(steps), len(steps) - 1)


def path_of(root: str, image: Digest) -> str:
    """Where the record of the image lies, if there is one."""
    return f"{root}/{DIRECTORY}/{image.hex}.json"


def write_record(path: str, document: Mapping[str, Any]) -> None:
    """The record is at ``path``, and only the store's owner can read it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(document, file)
    os.replace(temporary, path)


def read_record(path: str) -> BuildRecord | None:
    """The record at ``path``, None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return record_from_json(json.load(file))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_from_json(document: Mapping[str, Any]) -> BuildRecord:
    """The record of ``document``; raises KeyError, ValueError or TypeError where it is none."""
    return BuildRecord(str(document["dockerfile"]), tuple(map(_step, document["steps"])), int(document["last"]))


def _step(fields: Mapping[str, Any]) -> RecordedStep:
    first, last = fields["lines"]
    setting, base, layers = fields["setting"], fields["base"], fields["layers"]
    return RecordedStep(
        stage=str(fields["stage"]),
        number=int(fields["number"]),
        text=str(fields["text"]),
        lines=(int(first), int(last)),
        base=None if base is None else int(base),
        layers=None if layers is None else tuple(map(_layer, layers)),
        setting=Setting(tuple(setting["env"]), setting["cwd"], setting["user"], tuple(setting["shell"])),
        network=str(fields["network"]),
        security=str(fields["security"]),
    )


def _layer_json(layer: LayerResult) -> dict[str, Any]:
    descriptor = layer.descriptor
    return {
        "diff_id": str(layer.diff_id),
        "chain_id": str(layer.chain_id),
        "media_type": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


def _layer(document: Mapping[str, Any]) -> LayerResult:
    descriptor = Descriptor(document["media_type"], Digest(document["digest"]), int(document["size"]))
    return LayerResult(document["diff_id"], document["chain_id"], descriptor)


def drop_orphans(root: str, images: frozenset[str]) -> None:
    """Records of images that are not among ``images`` (hexadecimal ids) are gone."""
    directory = f"{root}/{DIRECTORY}"
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        if name.removesuffix(".json") not in images:
            os.unlink(f"{directory}/{name}")
