"""``pybuild diff``: what differs between the files of two images or steps, or what one step did."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.shell import find_scene, split_target
from builder.comparing import FileDifference, compare_roots, wasted_bytes
from builder.errors import BuildError
from builder.progress.plain import format_bytes, visible_text
from builder.results import LayerResult
from builder.rootless import become_root
from builder.session import Session
from layers.digest import ChainId, Digest
from layers.errors import LayersError


def parser_diff() -> ArgumentParser:
    """The options of ``pybuild diff``."""
    parser = create_parser(
        "diff", "Show which files differ between two images or steps.", "pybuild diff hello:1 hello:2"
    )
    parser.add_argument("old", metavar="IMAGE[@STEP]", help="name, id or the beginning of an id; steps as with shell")
    parser.add_argument(
        "new", metavar="IMAGE[@STEP]", nargs="?", help="what OLD is compared with; without it what the step of OLD did"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people, or for programs")
    return parser


def command_diff(words: Sequence[str]) -> int:
    """What was added (A), modified (M) and deleted (D) is on stdout, one line a name."""
    arguments = parser_diff().read(words)
    become_root()
    with Session(arguments.root) as session, contextlib.ExitStack() as stack:
        if arguments.new is None:
            old = _branches(session, arguments.old, stack, before=True)
            new = _branches(session, arguments.old, stack)
        else:
            old = _branches(session, arguments.old, stack)
            new = _branches(session, arguments.new, stack)
        as_json = arguments.format == "json"
        for difference in compare_roots(old, new):
            sys.stdout.write((json.dumps(_encode(difference)) if as_json else _line(difference)) + "\n")
        wasted = wasted_bytes(new)
    if as_json:
        sys.stdout.write(json.dumps({"wasted_bytes": wasted}) + "\n")
    elif wasted:
        sys.stderr.write(f"{format_bytes(wasted)} in layers are wasted: layers above replace or remove these files\n")
    return 0


def _branches(session: Session, target: str, stack: contextlib.ExitStack, *, before: bool = False) -> Sequence[Path]:
    """The directories of the layers of ``target``, top first; they stay while ``stack`` holds them."""
    image, step = split_target(target)
    scene = find_scene(session, image, step, stack, before=before)
    layers: tuple[LayerResult, ...] = scene.layers
    with session.pins.looking():
        session.pins.pin([layer.chain_id for layer in layers[-1:]])
    try:
        session.ensure_unpacked(layers)
    except LayersError as error:
        raise BuildError(f"layers of {target!r} are not here any more: {error}") from error
    above = (scene.failed.path / "fs",) if scene.failed else ()
    below = session.snapshotter.view(ChainId(Digest(layers[-1].chain_id))) if layers else ()
    return (*above, *below)


def _line(difference: FileDifference) -> str:
    details = ", ".join(_words(*detail) for detail in difference.details)
    line = f"{difference.change} /{os.fsdecode(difference.path)}" + (f" ({details})" if details else "")
    return visible_text(line)


def _words(name: str, old: str, new: str) -> str:
    """``mode 0644 → 0600``; a size on one side alone stands for itself."""
    values = [format_bytes(int(value)) if name == "size" else value for value in (old, new) if value]
    return " → ".join(values) if name == "size" and len(values) == 1 else f"{name} {' → '.join(values)}".rstrip()


def _encode(difference: FileDifference) -> dict[str, object]:
    details = {name: {"was": old or None, "is": new or None} for name, old, new in difference.details}
    return {"change": difference.change, "path": "/" + os.fsdecode(difference.path), "details": details}
