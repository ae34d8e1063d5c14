"""The cases of tests/corpus/dockerfiles that need stages and images, and what every graph keeps to."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.convert import convert, plan_bases
from builder.dockerfile.parser import parse
from builder.errors import BuildError
from builder.graph import BaseImage, Graph, Pull
from layers.config import ImageConfig
from layers.platform import Platform

CORPUS = Path(__file__).parents[3] / "corpus" / "dockerfiles"
AMD64 = Platform("linux", "amd64")
DIGEST = "sha256:" + "0" * 64


def load(name: str) -> list[dict[str, Any]]:
    return tomllib.loads((CORPUS / f"{name}.toml").read_text())["case"]


def image(fields: Mapping[str, Any]) -> BaseImage:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return BaseImage(ImageConfig(architecture="amd64", **values), DIGEST)


def build(text: str, **options: Any) -> tuple[Graph, list[str]]:
    """The graph and the references of all bases, asked for until nothing new is."""
    dockerfile = parse(text, "Dockerfile")
    images = options.pop("images", {})
    arguments: dict[str, Any] = {"build_args": {}, "target": None, "platform": AMD64, **options}
    bases: dict[str, BaseImage] = {}
    while True:
        plan = plan_bases(dockerfile, **arguments, known=bases)
        wanted = [base for base in plan if base.key not in bases]
        if not wanted:
            return convert(dockerfile, bases, **arguments), [base.key for base in plan]
        bases |= {base.key: image(images.get(base.reference, {})) for base in wanted}


def options(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("build_args", "target", "images") if name in case}


@pytest.mark.parametrize("case", load("graphs"), ids=lambda case: case["name"])
def test_graph(case: dict[str, Any]) -> None:
    graph, bases = build(case["text"], **options(case))
    shown = {
        "bases": bases,
        "titles": [step.title for step in graph.steps],
        "history": [entry.created_by for entry in graph.history],
        "warnings": [finding.message for finding in graph.warnings],
        "epoch": graph.source_date_epoch,
    }
    expected = {name: case[name] for name in shown if name in case}
    assert {name: shown[name] for name in expected} == expected
    fields = case.get("config", {})
    got = {name: getattr(graph.config, name) for name in fields}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in got.items()} == fields
    check_invariants(graph)


def check_invariants(graph: Graph) -> None:
    for number, step in enumerate(graph.steps):
        assert step.id == number
        before = [*step.inputs, *([] if step.base is None else [step.base])]
        assert all(other < number for other in before)
        assert len(set(step.inputs)) == len(step.inputs)
    assert len({(type(step.operation), step.operation, step.base) for step in graph.steps}) == len(graph.steps)
    needed = set() if graph.final is None else {graph.final}
    for step in reversed(graph.steps):
        if step.id in needed:
            needed |= {*step.inputs, *([] if step.base is None else [step.base])}
    assert needed == {step.id for step in graph.steps}
    for entry in graph.history:
        assert entry.empty_layer == (entry.step is None)
        assert entry.comment == "buildkit.dockerfile.v0"
    layers = [entry.step for entry in graph.history if entry.step is not None]
    assert layers == [step.id for step in graph.final_chain if not isinstance(step.operation, Pull)]


@pytest.mark.parametrize("case", load("unbuildable"), ids=lambda case: f"{case['message']} {case['text']}")
def test_unbuildable(case: dict[str, Any]) -> None:
    with pytest.raises(BuildError) as raised:
        build(case["text"], **options(case))
    error = raised.value
    assert case["message"] in error.message
    assert error.source is not None or "target" in case
    if "lines" in case:
        assert error.source is not None
        assert [error.source.start, error.source.end] == case["lines"]
    if "hint" in case:
        assert case["hint"] in error.hints
