"""Renderings of the event stream: what people and programs read."""

import io
import itertools
import json
import os
import re

import pytest

from builder.dockerfile.source import Finding, SourceRange
from builder.events import Journal, Notice, Outcome, StepFinished, StepOutput, StepProgress, StepStarted, Usage
from builder.progress.plain import PlainProgress, format_bytes, visible_text
from builder.progress.quiet import QuietProgress
from builder.progress.rawjson import JsonProgress
from builder.progress.report import ReportingProgress
from builder.progress.tty import TtyProgress, width_of
from builder.progress.usage import describe, describe_briefly

SECOND = 1_000_000_000
EVENTS = (
    StepStarted(1, "[1/2] FROM busybox", 0),
    StepFinished(1, Outcome.CACHED, 0),
    StepStarted(2, "[2/2] RUN make", 0),
    StepOutput(2, 1, b"compil", SECOND // 10),
    StepOutput(2, 2, b"ing\nlast", SECOND // 5),
    Notice("something to know"),
    StepFinished(2, Outcome.DONE, 2 * SECOND, None, Usage(1_500_000_000, 250_000_000, 7, 1, 0, 1_500_000)),
)


def test_plain_lines():
    out = io.StringIO()
    progress = PlainProgress(out)
    for event in EVENTS:
        progress(event)
    assert out.getvalue().splitlines() == [
        "#1 [1/2] FROM busybox",
        "#1 CACHED",
        "",
        "#2 [2/2] RUN make",
        "#2 0.200 compiling",
        "WARN: something to know",
        "#2 2.000 last",
        "#2 used 1.75s cpu (1.50s user, 0.25s system), 7B memory, 1 process, 0B read, 1.50MB written",
        "#2 DONE 2.0s",
    ]


def test_plain_names_the_step_again_when_the_speaker_changes():
    out = io.StringIO()
    progress = PlainProgress(out)
    progress(StepStarted(1, "one", 0))
    progress(StepStarted(2, "two", 0))
    progress(StepOutput(1, 1, b"x\n", 0))
    progress(StepFinished(2, Outcome.FAILED, 0, "it broke"))
    assert out.getvalue().split("\n\n") == ["#1 one", "#2 two", "#1 one\n#1 0.000 x", "#2 two\n#2 ERROR: it broke\n"]


def test_plain_limits_how_often_progress_is_told():
    out = io.StringIO()
    progress = PlainProgress(out)
    progress(StepStarted(1, "pull", 0))
    for step in range(100):
        progress(StepProgress(1, "layer", step, 100, step * SECOND // 100))
    progress(StepProgress(1, "layer", 100, 100, SECOND))
    assert out.getvalue().splitlines() == ["#1 pull", "#1 layer 0B / 100B", "#1 layer 100B / 100B done"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain", "plain"),
        ("10%\r50%\r100%", "100%"),
        ("windows\r", "windows"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("a\tb", "a\tb"),
        ("bell\x07", "bell"),
        ("c1 \x9b31m", "c1 �31m"),
    ],
)
def test_output_cannot_steer_the_terminal(line, shown):
    assert visible_text(line) == shown


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1500, "1.50kB"), (2_000_000, "2.00MB"), (3 * 10**15, "3.00PB")]
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


def test_rawjson_is_one_object_a_line():
    out = io.StringIO()
    progress = JsonProgress(out)
    for event in EVENTS:
        progress(event)
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert objects[1]["vertexes"][0]["cached"] is True
    assert objects[3]["logs"][0] == {"vertex": "2", "stream": 1, "data": "Y29tcGls", "timestamp": 0.1}
    assert objects[5] == {"warnings": [{"short": "something to know"}]}
    assert objects[6]["vertexes"][0]["usage"] == {
        "cpu_user_ns": 1_500_000_000,
        "cpu_system_ns": 250_000_000,
        "memory_peak_bytes": 7,
        "pids_peak": 1,
        "read_bytes": 0,
        "written_bytes": 1_500_000,
    }


def test_quiet_tells_warnings_only():
    out = io.StringIO()
    progress = QuietProgress(out)
    for event in EVENTS:
        progress(event)
    assert out.getvalue() == "WARN: something to know\n"


def test_tty_leaves_finished_steps_and_erases_the_rest():
    out = io.StringIO()
    now = [0]
    progress = TtyProgress(out, lambda: now[0], colour=False)
    for event in EVENTS:
        now[0] += SECOND
        progress(event)
    progress.close()
    text = out.getvalue()
    assert "CACHED [1/2] FROM busybox" in text
    assert "# compiling" in text
    assert text.endswith("2.0s\n")
    assert "\x1b[31m" not in text


def test_tty_block_fits_the_window():
    out = io.StringIO()
    progress = TtyProgress(out, lambda: 10 * SECOND, colour=False)
    for number in range(1, 60):
        progress(StepStarted(number, "step " * 50, 0))
    out.truncate(0)
    progress.tick()
    drawn = out.getvalue().rpartition("\x1b[J")[2].splitlines()
    assert len(drawn) < 24
    assert all(len(line) <= 80 for line in drawn)


def test_journal_numbers_steps_and_stamps_events():
    events = []
    journal = Journal(events.append, lambda: 42)
    first, second = journal.start("a"), journal.start("b")
    second.finish(Outcome.DONE)
    first.finish(Outcome.FAILED, "no")
    assert events == [
        StepStarted(1, "a", 42),
        StepStarted(2, "b", 42),
        StepFinished(2, Outcome.DONE, 42, None, None),
        StepFinished(1, Outcome.FAILED, 42, "no", None),
    ]


def test_findings_come_last_with_their_lines() -> None:
    out = io.StringIO()
    progress = PlainProgress(out)
    journal = Journal(progress, itertools.count().__next__)
    journal.find(Finding("MaintainerDeprecated", "use a label", SourceRange("Dockerfile", 3, 3)))
    journal.find(Finding("UnusedBuildArg", "nobody uses X"))
    journal.start("step").finish(Outcome.CACHED)
    progress.close()
    progress.close()
    assert out.getvalue().splitlines() == [
        "#1 step",
        "#1 CACHED",
        "",
        " 2 warnings found (pybuild check shows the places):",
        " - MaintainerDeprecated: use a label (line 3)",
        " - UnusedBuildArg: nobody uses X",
    ]


def test_findings_for_programs_have_their_range() -> None:
    out = io.StringIO()
    JsonProgress(out)(Finding("Rule", "what", SourceRange("Dockerfile", 3, 4)))
    assert json.loads(out.getvalue()) == {
        "warnings": [
            {
                "level": 1,
                "short": "Rule: what",
                "sourceInfo": {"filename": "Dockerfile"},
                "range": [{"start": {"line": 3}, "end": {"line": 4}}],
            }
        ]
    }


@pytest.mark.parametrize(
    ("usage", "whole", "brief"),
    [
        (Usage(), "", ""),
        (Usage(memory_peak_bytes=1000), "1.00kB memory", "1.00kB"),
        (Usage(40_000_000, 10_000_000), "0.05s cpu (0.04s user, 0.01s system)", "0.1s cpu"),
        (Usage(pids_peak=3, read_bytes=5), "3 processes, 5B read", ""),
    ],
)
def test_only_what_was_counted_is_told(usage: Usage, whole: str, brief: str):
    assert (describe(usage), describe_briefly(usage)) == (whole, brief)


def test_terminal_tells_what_a_step_used_where_there_is_room(monkeypatch: pytest.MonkeyPatch):
    ends = []
    for columns in (80, 60):
        monkeypatch.setattr("os.get_terminal_size", lambda _fd, columns=columns: os.terminal_size((columns, 24)))
        out = io.StringIO()
        progress = TtyProgress(out, lambda: 2 * SECOND, colour=False)
        for event in EVENTS:
            progress(event)
        ends.append(next(line for line in reversed(out.getvalue().splitlines()) if "RUN make" in line))
    assert ends[0].endswith("1.8s cpu 7B  2.0s")
    assert "cpu" not in ends[1]
    assert ends[1].endswith("  2.0s")


@pytest.mark.parametrize("columns", [1, 5, 10, 19, 20, 33, 80])
@pytest.mark.parametrize(
    "title", ["[1/2] RUN make all the things that there are", "[1/2] COPY 日本語のファイル名 /長い名前", "e\u0301" * 30]
)
def test_no_line_is_wider_than_the_window(monkeypatch: pytest.MonkeyPatch, columns: int, title: str):
    monkeypatch.setattr("os.get_terminal_size", lambda _fd: os.terminal_size((columns, 9)))
    out = io.StringIO()
    progress = TtyProgress(out, lambda: 10 * SECOND, colour=False)
    progress(StepStarted(1, title, 0))
    progress(StepOutput(1, 1, (title + "\n").encode(), 0))
    progress.tick()
    progress(StepFinished(1, Outcome.DONE, 10 * SECOND))
    lines = re.sub("\x1b\\[[0-9;]*[A-Za-z]", "", out.getvalue()).splitlines()
    assert lines
    assert max(map(width_of, lines)) <= columns


def test_report_is_a_table_at_the_end_of_any_build():
    out = io.StringIO()
    shown: list[object] = []

    class Shown:
        def __call__(self, event: object) -> None:
            shown.append(event)

        def tick(self) -> None:
            shown.append("tick")

        def close(self) -> None:
            shown.append("close")

    progress = ReportingProgress(Shown(), out)
    events = [
        StepStarted(1, "[internal] load build definition from Dockerfile", 0),
        StepFinished(1, Outcome.DONE, 0),
        StepStarted(2, "[1/3] FROM base", 0),
        StepFinished(2, Outcome.CACHED, 0),
        StepStarted(3, "[2/3] RUN make", SECOND),
        StepFinished(3, Outcome.DONE, 3 * SECOND, None, Usage(SECOND, SECOND // 2, 2_000_000, 3, 10, 20_000)),
        StepStarted(4, "[3/3] RUN false", 3 * SECOND),
        StepFinished(4, Outcome.FAILED, 4 * SECOND, "no", Usage(SECOND, 0, 1_000_000)),
        StepStarted(5, "exporting to image", 4 * SECOND),
    ]
    for event in events:
        progress(event)
    progress.tick()
    assert out.getvalue() == ""
    progress.close()
    progress.close()
    assert shown == [*events, "tick", "close", "close"]
    assert [re.split(r" {3,}", line) for line in out.getvalue().splitlines()] == [
        ["STEP", "RESULT", "TIME", "CPU", "MEMORY", "PROCESSES", "READ", "WRITTEN"],
        ["[1/3] FROM base", "cached", "0.00s", "-", "-", "-", "-", "-"],
        ["[2/3] RUN make", "done", "2.00s", "1.50s", "2.00MB", "3", "10B", "20.00kB"],
        ["[3/3] RUN false", "failed", "1.00s", "1.00s", "1.00MB", "-", "-", "-"],
        ["all (memory, processes: most)", "4.00s", "2.50s", "2.00MB", "3", "10B", "20.00kB"],
    ]
