"""Builds with a cache against builds without one, through random edits of Dockerfile and context: no difference.

A wrong hit is the worst mistake a cache can make. Times are fixed (SOURCE_DATE_EPOCH 0), so two builds that mean the
same have one image id. ``CACHE_ORACLE_EXAMPLES`` raises the number of histories.
"""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.api import build_or_reuse
from builder.errors import BuildError
from builder.options import BuildOptions

EXAMPLES = int(os.environ.get("CACHE_ORACLE_EXAMPLES", "12"))
NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.tuples(st.sampled_from([b"", b"x", b"y"]), st.sampled_from([0o644, 0o600]))
TREES = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES, max_size=2), min_size=1, max_size=3)
SOURCES = st.sampled_from([".", "a", "b", "*", "a*", "$WHAT", "[ab]"])
PLACES = st.sampled_from(["/", "/x", "/x/", "d", "/l/../y", "./"])
FLAGS = st.sampled_from(["", "", "--chown=1:2 ", "--chmod=700 ", "--link ", "--exclude=a ", "--parents "])
LINES = st.one_of(
    st.builds("COPY {}{} {}".format, FLAGS, SOURCES, PLACES),
    st.builds("COPY {}{} {}".format, FLAGS, SOURCES, PLACES),
    st.builds("ADD {} {}".format, SOURCES, PLACES),
    st.builds("COPY <<E {}f\n{}\nE".format, PLACES.map(lambda place: place.rstrip("/") + "/"), NAMES),
    st.builds("WORKDIR {}".format, st.sampled_from(["/w", "w", "/x", "/"])),
    st.builds("USER {}".format, st.sampled_from(["0", "5", "5:6"])),
    st.builds("ENV {}={}".format, st.sampled_from(["WHAT", "OTHER"]), NAMES),
    st.builds("ARG WHAT={}".format, NAMES),
    st.builds("LABEL one={}".format, NAMES),
)
STAGES = st.lists(LINES, min_size=1, max_size=4)
LAST = st.sampled_from(["", "COPY --from=one / /", "COPY --from=one /x /z", "COPY --from=one /a /", "FROM one"])
IGNORES = st.sampled_from(["", "", "a", "*\n!b", "c/a"])


@st.composite
def revisions(draw):
    """Some successive states of one project, each a small step from the one before."""
    first = draw(STAGES)
    second = draw(STAGES)
    last = draw(LAST)
    tree = draw(TREES)
    ignore = draw(IGNORES)
    states = []
    for _ in range(draw(st.integers(2, 4))):
        states.append(("\n".join(["FROM scratch AS one", *first, "FROM scratch", *second, last]), ignore, tree))
        match draw(st.integers(0, 5)):
            case 0:
                first = _edited(draw, first)
            case 1:
                second = _edited(draw, second)
            case 2:
                last = draw(LAST)
            case 3:
                ignore = draw(IGNORES)
            case _:
                tree = draw(TREES) if draw(st.booleans()) else _touched(draw, tree)
    return states


def _edited(draw, lines):
    at = draw(st.integers(0, len(lines)))
    return [*lines[:at], *draw(st.lists(LINES, max_size=1)), *lines[at + draw(st.integers(0, 1)) :]] or ["LABEL x=y"]


def _touched(draw, tree):
    name = draw(st.sampled_from(sorted(tree)))
    changed = dict(tree)
    value = changed.pop(name)
    changed[draw(NAMES)] = draw(st.just(value) | LEAVES)
    return changed


def plant(directory, tree):
    directory.mkdir()
    for name, made in tree.items():
        if isinstance(made, dict):
            plant(directory / name, made)
        else:
            (directory / name).write_bytes(made[0])
            (directory / name).chmod(made[1])


def outcome(context, store, **options):
    """The image id; None when the build fails (of two steps that fail side by side either may be the first)."""
    chosen = BuildOptions(context=str(context), source_date_epoch=0, **options)
    try:
        return build_or_reuse(chosen, root=str(store), emit=lambda _event: None, sources={}).image_id
    except BuildError:
        return None


@given(revisions())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cache_makes_no_difference(states):
    top = Path(tempfile.mkdtemp(prefix="cache-oracle-"))
    try:
        for number, (dockerfile, ignore, tree) in enumerate(states):
            context = top / "context"
            if context.exists():
                shutil.rmtree(context)
            plant(context, tree)
            (context / "Dockerfile").write_text(dockerfile + "\n")
            if ignore:
                (context / ".dockerignore").write_text(ignore)
            with_cache = outcome(context, top / "kept")
            assert outcome(context, top / "kept") == with_cache
            assert outcome(context, top / f"fresh{number}", no_cache=True) == with_cache
    finally:
        shutil.rmtree(top)
