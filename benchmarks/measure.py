"""Contenders do the same work in turn, several times; medians and ratios are printed and kept as JSON.

Only ratios of one run count: the machines are shared, so an absolute time says little. A peer that is not installed is
left out, and the table says so. Every program here is one row of docs/performance.md:

    python benchmarks/cached_build.py [--rounds N] [--only NAME]…
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def _nothing() -> None:
    pass


class Contender(NamedTuple):
    """One way to do the work: ``run`` is timed, ``prepare`` before each run is not."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing


class Goal(NamedTuple):
    """The row ``of`` (the first one when empty) shall take at most ``ratio`` times as long as ``peer``."""

    peer: str
    ratio: float
    of: str = ""


class Row(NamedTuple):
    """What was measured for one contender, in seconds unless the benchmark says otherwise.

    ``cpu``: processor time of this program and of the processes it waited for, in seconds; daemons are not among them.
    """

    name: str
    samples: list[float]
    cpu: list[float] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def arguments(rounds: int) -> argparse.Namespace:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each contender (%(default)s)")
    parser.add_argument("--only", action="append", default=[], help="measure this contender only; may be repeated")
    return parser.parse_args()


def alternate(contenders: Sequence[Contender], options: argparse.Namespace) -> list[Row]:
    """Seconds of every contender, measured in turn so that what disturbs one disturbs all."""
    chosen = [one for one in contenders if not options.only or one.name in options.only]
    rows = [Row(contender.name, [], []) for contender in chosen]
    for _ in range(options.rounds):
        for contender, row in zip(chosen, rows, strict=True):
            contender.prepare()
            used, begin = _processor_seconds(), time.perf_counter()
            contender.run()
            row.samples.append(time.perf_counter() - begin)
            if row.cpu is not None:
                row.cpu.append(_processor_seconds() - used)
    return rows


def _processor_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def report(
    title: str,
    rows: Sequence[Row],
    *,
    goals: Sequence[Goal] = (),
    limit: float | None = None,
    absent: Sequence[str] = (),
    ratios: bool = True,
    cpu: bool = False,
    unit: str = "ms",
    scale: float = 1000.0,
) -> bool:
    """The table is printed and stored under benchmarks/results; true when every goal and the limit hold.

    The first row is ours. ``limit`` is in the printed unit; ``ratios`` is false where the rows are no contenders.
    ``cpu``: the processor time is printed too, where no daemon does part of the work.
    """
    ours = rows[0]
    print(f"\n{title}")
    for row in rows:
        low, high = min(row.samples) * scale, max(row.samples) * scale
        ratio = ours.median / row.median
        print(
            f"  {row.name:<24} {row.median * scale:10.1f} {unit}  ({low:.1f} to {high:.1f}, {len(row.samples)} times)"
            + ("" if row is ours or not ratios else f"   {ours.name} takes {ratio:.2f} × this")
            + (f"   {statistics.median(row.cpu):.2f} s of processor time" if cpu and row.cpu else "")
        )
    for name in absent:
        print(f"  {name:<24} is not here")
    verdicts = []
    if limit is not None:
        verdicts.append((f"at most {limit:g} {unit}", ours.median * scale <= limit))
    verdicts += _compare(rows, goals)
    for text, holds in verdicts:
        print(f"  goal {text}: {'reached' if holds else 'MISSED'}")
    _store(title, rows, verdicts, unit, scale)
    return all(holds for _, holds in verdicts)


def _compare(rows: Sequence[Row], goals: Sequence[Goal]) -> list[tuple[str, bool]]:
    """What the goals say, and whether it is so; a goal whose rows were not measured is left out."""
    medians = {row.name: row.median for row in rows}
    verdicts: list[tuple[str, bool]] = []
    for goal in goals:
        measured = goal.of or rows[0].name
        if measured in medians and goal.peer in medians:
            ratio = medians[measured] / medians[goal.peer]
            text = f"{measured} at most {goal.ratio:g} × {goal.peer} (is {ratio:.2f})"
            verdicts.append((text, ratio <= goal.ratio))
    return verdicts


def _store(title: str, rows: Sequence[Row], verdicts: Sequence[tuple[str, bool]], unit: str, scale: float) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "title": title,
        "program": Path(sys.argv[0]).stem,
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "processors": os.cpu_count(),
        "unit": unit,
        "rows": [
            {
                "name": row.name,
                "median": row.median * scale,
                "samples": [value * scale for value in row.samples],
                "cpu_seconds": row.cpu or [],
            }
            for row in rows
        ],
        "goals": [{"goal": text, "reached": holds} for text, holds in verdicts],
    }
    name = "".join(char if char.isalnum() else "-" for char in title.lower())[:60].strip("-")
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
