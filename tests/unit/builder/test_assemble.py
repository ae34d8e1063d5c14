"""From graph and results to configuration and manifest."""

import pytest

from builder.assemble import assemble, format_time
from builder.dockerfile.source import SourceRange
from builder.graph import Graph, HistoryEntry, Pull, Run, Step, StepId
from builder.results import LayerResult, StepResult
from layers.config import History, ImageConfig
from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.media import OCI_LAYER
from layers.platform import Platform

LINE = SourceRange("Dockerfile", 1, 1)
BASE_HISTORY = History("2020-01-01T00:00:00Z", created_by="base")
RUN = Run(("x",), (), "/", "", "default", "sandbox", (), None, "x")


def layer(name: str, created: str | None = None) -> LayerResult:
    digest = sha256(name.encode())
    return LayerResult(digest, digest, Descriptor(OCI_LAYER, digest, 1), created)


def graph(epoch: int | None = None) -> Graph:
    pull = Step(StepId(0), Pull("b", "d", Platform("linux", "amd64")), None, (), LINE, "[1/2] FROM b", "FROM b")
    run = Step(StepId(1), RUN, StepId(0), (), LINE, "[2/2] RUN x", "RUN x")
    history = (
        HistoryEntry("ENV A=1", None, True),
        HistoryEntry("RUN x", StepId(1), False),
        HistoryEntry('CMD ["a"]', None, True),
    )
    config = ImageConfig(architecture="amd64", history=(BASE_HISTORY,), labels={"a": "1", "b": "2"})
    return Graph((pull, run), StepId(1), config, history, (), epoch)


RESULTS = {
    StepId(0): StepResult("k0", (layer("base"),)),
    StepId(1): StepResult("k1", (layer("base"), layer("run", "2021-01-01T00:00:00Z"))),
}


def test_entries_without_a_layer_have_the_time_of_the_layer_before():
    image = assemble(graph(), RESULTS, {})
    assert [entry.created for entry in image.config.history] == [
        "2020-01-01T00:00:00Z",
        "2020-01-01T00:00:00Z",
        "2021-01-01T00:00:00Z",
        "2021-01-01T00:00:00Z",
    ]
    assert image.config.created == "2021-01-01T00:00:00Z"


def test_history_with_layers_matches_the_diff_ids():
    image = assemble(graph(), RESULTS, {})
    assert sum(not entry.empty_layer for entry in image.config.history) == len(image.config.rootfs.diff_ids) == 2
    assert [one.digest for one in image.manifest.layers] == list(image.config.rootfs.diff_ids)


def test_epoch_sets_the_times_of_this_build_only():
    image = assemble(graph(epoch=1), RESULTS, {})
    assert [entry.created for entry in image.config.history] == ["2020-01-01T00:00:00Z", *["1970-01-01T00:00:01Z"] * 3]
    assert image.config.created == "1970-01-01T00:00:01Z"


def test_equal_results_give_equal_bytes():
    assert assemble(graph(), RESULTS, {}).config_bytes == assemble(graph(), dict(RESULTS), {}).config_bytes


def test_labels_of_the_command_line_win():
    assert assemble(graph(), RESULTS, {"b": "3"}).config.labels == {"a": "1", "b": "3"}


def test_image_id_is_the_digest_of_the_configuration():
    image = assemble(graph(), RESULTS, {})
    assert image.id == sha256(image.config_bytes)


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(time_ns, text):
    assert format_time(time_ns) == text
