"""Builds with a cache against builds without one, through random edits of Dockerfile and files: no difference.

A wrong hit is the worst mistake a cache can make. A history is a project and some edits; a case is one state of it,
built with a cache that knows all states before, also those of other histories, and without. Times are fixed
(SOURCE_DATE_EPOCH), so two builds that mean the same have one image id. What is known not to count (times of files,
values of secrets, addresses of hosts, what lies in cache mounts) changes too, and no command here lets it show.

``CACHE_ORACLE_EXAMPLES`` raises the number of histories, ``CACHE_ORACLE_SECONDS`` ends a long run earlier,
``CACHE_ORACLE_SEED`` starts it elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from builder import servers
from builder.api import BuildResult, build_or_reuse
from builder.errors import BuildError
from builder.options import BuildOptions, SecretSource
from builder.session import Session
from cache import filedigests
from harness.bases import made
from harness.projects import EDITS, FileEdit, apply
from layers.load import load
from layers.snapshotter import Snapshotter

EXAMPLES = int(os.environ.get("CACHE_ORACLE_EXAMPLES", "12"))
SECONDS = float(os.environ.get("CACHE_ORACLE_SECONDS", "inf"))
SEED = int(os.environ.get("CACHE_ORACLE_SEED", "0"))
STORE_LIFE = 200
"""Histories that share a store: what an earlier one left must not be taken for another's."""
TOLD = 250
"""Histories after which a long run says how far it is (``pytest -s``)."""
TICK_NS = 20_000_000
"""No file system here has a coarser clock; the two seconds of life would keep all files of a test from being known."""

NAMES = st.sampled_from(["a", "b", "c"])
SOURCES = st.sampled_from([".", "a", "b*", "c", "*", "a*", "$WHAT*", "[ab]", "d/a", "d/*", "a b*", "?/?", "./[d]/./a"])
PLACES = st.sampled_from(["/", "/x", "/x/", "d", "/l/../y", "./", "/x/a", "/bin/", "/etc/"])
DEEP_SOURCES = st.sampled_from(["**/a", "d/./a*", "*/b", "[d]", "./d/./**", "a*"])
STAGES_FROM = st.sampled_from(["", "", "--from=one ", "--from=other ", "--from=base "])
OWNERS = st.sampled_from(["", "", "", "--chown=1:2 ", "--chown=root ", "--chown=app:staff ", "--chown=7 "])
MODES = st.sampled_from(["", "", "", "--chmod=700 ", "--chmod=u=rwX,go=r ", "--chmod=4755 "])
EXCLUDES = st.sampled_from(["", "", "", "--exclude=a ", "--exclude=**/b ", "--exclude=d --exclude=!d/a "])
LINKS = st.sampled_from(["", "", "", "--link "])
DOCUMENTS = st.sampled_from(["one", "$WHAT", "${OTHER:-none}", "#!/bin/sh\necho hi"])
FILE_LINES = st.one_of(
    st.builds("COPY {}{}{}{}{}{} {}".format, STAGES_FROM, OWNERS, MODES, EXCLUDES, LINKS, SOURCES, PLACES),
    st.builds("COPY {}{}{}{}{}{} {}".format, STAGES_FROM, OWNERS, MODES, EXCLUDES, LINKS, SOURCES, PLACES),
    st.builds("COPY --parents {}{}{} {}".format, EXCLUDES, OWNERS, DEEP_SOURCES, PLACES),
    st.builds("COPY --from=one --parents {}{} {}".format, EXCLUDES, DEEP_SOURCES, PLACES),
    st.builds("ADD {}{}{}{} {}".format, OWNERS, MODES, LINKS, SOURCES, PLACES),
    st.builds("ADD --unpack={} {} {}".format, st.sampled_from(["true", "false"]), SOURCES, PLACES),
    st.builds("COPY {}<<E {}f\n{}\nE".format, OWNERS, PLACES.map(lambda place: place.rstrip("/") + "/"), DOCUMENTS),
    st.builds("COPY <<E /etc/passwd\nroot:x:0:0::/:/bin/sh\napp:x:{}:7::/:\nE".format, st.integers(1, 3)),
    st.builds("COPY <<E /etc/group\nroot:x:0:\nstaff:x:{}:\nE".format, st.integers(1, 3)),
    st.builds("WORKDIR {}".format, st.sampled_from(["/w", "w", "/x", "/", "/x/$WHAT"])),
    st.builds("USER {}".format, st.sampled_from(["0", "0", "5", "5:6", "app"])),
    st.builds("ENV {}={}".format, st.sampled_from(["WHAT", "OTHER"]), NAMES),
    st.builds("ARG {}".format, st.sampled_from(["WHAT", "OTHER", "GIVEN", "BASE"])),
    st.builds("ARG {}={}".format, st.sampled_from(["WHAT", "GIVEN"]), NAMES),
    st.builds("LABEL one={}".format, NAMES),
)
LOOK = "find /m | sort | xargs stat -c '%n %a %u %g %F %t %T' >{0}; find /m -type f | sort | xargs cat >>{0}"
COMMANDS = st.one_of(
    st.builds("RUN echo $WHAT ${{OTHER-none}} $GIVEN >>/out-{}".format, NAMES),
    st.just("RUN cat /x/a /a /y >>/cat 2>/dev/null; true"),
    st.just("RUN (ls -1 /x /w /a; id; pwd) >/list 2>&1; true"),
    st.builds("RUN {}".format, st.sampled_from(["rm -rf /x", "mv /x /z", "chmod 700 /", "ln -sf a /l", "touch /a"])),
    st.builds("RUN --mount=type=bind,target=/m{} {}".format, STAGES_FROM.map(
        lambda stage: stage.replace("--", ",").strip()), st.just(LOOK.format("/bind"))),
    st.builds("RUN --mount=type=bind,source={},target=/m {}".format, NAMES, st.just(LOOK.format("/bound"))),
    st.builds("RUN --mount=type=bind,from=one,source=/{},target=/m {}".format, NAMES, st.just(LOOK.format("/bound"))),
    st.builds("RUN --mount=type=cache,target=/k{},id={} echo x >>/k/log && stat -c '%a %u' /k >/cached".format,
              st.sampled_from(["", ",sharing=locked", ",sharing=private", ",from=one,source=/"]), NAMES),
    st.builds("RUN --mount=type=tmpfs,target=/t echo {} >/t/f && cp /t/f /from-memory".format, NAMES),
    st.builds("RUN --mount=type=secret,id=s{} stat -c '%a %u %g' /run/secrets/s >/secret 2>&1; true".format,
              st.sampled_from(["", ",mode=0444", ",uid=3", ",target=/s", ",env=TOKEN,required"])),
    st.just("RUN hostname >/name; sed 's/^[^ \t]*//' /etc/hosts >/hosts"),
    st.builds("RUN --network={} test $(ls /sys/class/net | wc -l) -gt 1 && echo many >/net; true".format,
              st.sampled_from(["none", "host", "default"])),
    st.builds("RUN <<E\necho {} $WHAT >/document\nE".format, NAMES),
    st.builds('RUN ["/bin/sh", "-c", "echo {} >/exec"]'.format, NAMES),
    st.sampled_from(['SHELL ["/bin/sh", "-c"]', 'SHELL ["/bin/sh", "-ec"]']),
)  # fmt: skip
LAST = st.sampled_from(
    [
        "",
        "COPY --from=one / /",
        "COPY --from=one /x /z",
        "COPY --from=one /a* /",
        "FROM one",
        "FROM two",
        "FROM ${BASE}",
    ]
)
IGNORES = st.sampled_from(["", "", "", "a", "*\n!b", "d/a", "**/b\n!d/b", "*\n!d/a", "Dockerfile\n.dockerignore"])
FIRST_FILES = ("a", "b", "c", "d/a", "d/b")
FILE_EDITS = st.builds(
    FileEdit, st.sampled_from([*EDITS, "write", "rewrite", "replace"]), *(st.integers(0, 11) for _ in range(3))
)


class State(NamedTuple):
    """What a build is asked for besides the files; ``turn`` changes what must not count."""

    stages: tuple[tuple[str, ...], ...]
    base: str
    last: str
    ignore: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    epoch: int = 0
    turn: int = 0

    def dockerfile(self) -> str:
        one, two, final = self.stages
        # a stage can't take files from itself
        one = tuple(line.replace("from=one", "from=base") for line in one)
        lines = ["ARG BASE=one", "FROM busybox AS base", f"FROM {self.base} AS one", *one, f"FROM {self.base} AS two"]
        return "\n".join([*lines, *two, f"FROM {self.base}", *final, self.last, ""])


class Revision(NamedTuple):
    """One edit of a project: of its files (``named``: of those of its second context), or a new state."""

    state: State
    files: tuple[FileEdit, ...]
    named: tuple[FileEdit, ...]


@st.composite
def histories(draw: st.DrawFn) -> list[Revision]:
    """Successive states of a project, each a small step from the one before."""
    runs = draw(st.sampled_from([False, False, False, True]))
    lines = FILE_LINES | COMMANDS if runs else FILE_LINES
    stages = tuple(tuple(draw(st.lists(lines, max_size=most))) for most in (4, 2, 3))
    state = State(stages, "busybox" if runs else "scratch", draw(LAST))
    revisions = [
        Revision(state, tuple(draw(st.lists(FILE_EDITS, max_size=10))), tuple(draw(st.lists(FILE_EDITS, max_size=3))))
    ]
    for _ in range(draw(st.integers(2, 6))):
        files: tuple[FileEdit, ...] = ()
        named: tuple[FileEdit, ...] = ()
        match draw(st.integers(0, 9)):
            case 0 | 1 | 2:
                at = draw(st.integers(0, len(stages) - 1))
                changed = list(state.stages)
                changed[at] = _edited(draw, changed[at], lines)
                state = state._replace(stages=tuple(changed))
            case 3:
                state = draw(_varied(state, draw(st.sampled_from(["last", "ignore", "epoch", "arguments"]))))
            case 4:
                named = tuple(draw(st.lists(FILE_EDITS, min_size=1, max_size=2)))
            case _:
                files = tuple(draw(st.lists(FILE_EDITS, min_size=1, max_size=2)))
        state = state._replace(turn=draw(st.integers(0, 2)))
        revisions.append(Revision(state, files, named))
    return revisions


def _varied(state: State, what: str) -> st.SearchStrategy[State]:
    values: dict[str, st.SearchStrategy[object]] = {
        "last": LAST,
        "ignore": IGNORES,
        "epoch": st.sampled_from([0, 1]),
        "arguments": st.dictionaries(
            st.sampled_from(["WHAT", "GIVEN", "BASE", "BUILDKIT_SANDBOX_HOSTNAME"]),
            st.sampled_from(["one", "one", "two"]),
        ).map(lambda given: tuple(given.items())),
    }
    return values[what].map(lambda value: state._replace(**{what: value}))


def _edited(draw: st.DrawFn, lines: tuple[str, ...], drawn: st.SearchStrategy[str]) -> tuple[str, ...]:
    """A line more, a line less, another line, or two that changed places."""
    at = draw(st.integers(0, len(lines)))
    if draw(st.booleans()) and len(lines) > 1:
        return (*lines[1:], lines[0])
    return (*lines[:at], *draw(st.lists(drawn, max_size=1)), *lines[at + draw(st.integers(0, 1)) :])


class Laboratory:
    """Two stores: one that keeps what it built, one that is never asked. Servers stay from build to build."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.deadline = time.monotonic() + SECONDS
        self.top = Path(tempfile.mkdtemp(prefix="cache-oracle-", dir=_memory()))
        self._renew()

    def close(self) -> None:
        shutil.rmtree(self.top)

    def told(self) -> str:
        """What was done so far."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))

    def check(self, history: list[Revision]) -> None:
        """Every state of ``history`` gives the same image with the cache and without."""
        if time.monotonic() > self.deadline:
            return
        self.counts["histories"] += 1
        if self.counts["histories"] % TOLD == 0:
            print(self.told(), flush=True)
        if self.counts["histories"] % STORE_LIFE == 0:
            self._renew()
        for name in ("context", "other"):
            shutil.rmtree(self.top / name, ignore_errors=True)
            for path in FIRST_FILES:
                (self.top / name / path).parent.mkdir(parents=True, exist_ok=True)
                (self.top / name / path).write_text(path)
        for number, revision in enumerate(history):
            for edit in revision.files:
                apply(self.top / "context", edit)
            for edit in revision.named:
                apply(self.top / "other", edit)
            self._compare(revision.state, number)

    def _compare(self, state: State, number: int) -> None:
        (self.top / "context" / "Dockerfile").write_text(state.dockerfile())
        (self.top / "context" / ".dockerignore").write_text(state.ignore)
        (self.top / "secret").write_text(f"secret {number}")
        with_cache, again = self._build(state, "kept"), self._build(state, "kept")
        without = self._build(state, "fresh", no_cache=True)
        assert _image(with_cache) == _image(without), f"revision {number}:\n{state.dockerfile()}"
        assert _image(again) == _image(without), f"revision {number}, once more:\n{state.dockerfile()}"
        if again is not None:
            assert not again.steps, f"revision {number} is not in the cache after it was built"
        self.counts["cases"] += 1
        self.counts["built" if without is not None else "refused"] += 1
        self.counts["with RUN"] += without is not None and "RUN " in state.dockerfile()
        if with_cache is not None and without is not None:
            self.counts["steps"] += len(without.steps)
            hits = [step.cached for step in with_cache.steps] or [True] * len(without.steps)
            self.counts["hits"] += sum(hits)

    def _build(self, state: State, store: str, *, no_cache: bool = False) -> BuildResult | None:
        """None when the build fails (of two steps that fail side by side either may be the first)."""
        options = BuildOptions(
            context=str(self.top / "context"),
            contexts={"other": str(self.top / "other")},
            source_date_epoch=state.epoch,
            build_args=dict(state.arguments),
            secrets={"s": SecretSource(str(self.top / "secret"), None)},
            extra_hosts=(f"db:10.0.0.{state.turn + 1}",),
            allowed=frozenset(("network.host",)),
            no_cache=no_cache,
        )
        try:
            return build_or_reuse(options, root=str(self.top / store), emit=lambda _event: None, sources={})
        except BuildError as error:
            self.counts[f"refused: {type(error).__name__}"] += 1
            if "union server is closed" in error.message:
                # no project is the cause of that
                raise
            return None

    def _renew(self) -> None:
        for name in ("kept", "fresh"):
            shutil.rmtree(self.top / name, ignore_errors=True)
            with Session(str(self.top / name)) as session, open(made("busybox"), "rb") as archive:
                load(session.store, archive)


def _image(result: BuildResult | None) -> str | None:
    return None if result is None else str(result.image_id)


def _memory() -> str | None:
    """A file system in memory where there is one: a store there needs no disk to be durable."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    monkeypatch.setattr(filedigests, "RACY_NS", TICK_NS)
    started: list[servers.Servers] = []
    made = servers.Servers

    def share(isolation: str, snapshotter: Snapshotter) -> servers.Servers:
        """Those of the first build serve all, and end with the last."""
        if not started:
            started.append(made(isolation, snapshotter))
            for name in ("end", "close"):
                monkeypatch.setattr(started[0], name, lambda: None)
        return started[0]

    monkeypatch.setattr(servers, "Servers", share)
    made_here = Laboratory()
    try:
        yield made_here
        print(f"\n{made_here.told()}")
    finally:
        made_here.close()
        for one in started:
            made.close(one)


@pytest.mark.fuse
@pytest.mark.sandbox
def test_a_cache_makes_no_difference(laboratory: Laboratory) -> None:
    @given(histories())
    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    def check(history: list[Revision]) -> None:
        laboratory.check(history)

    check()
