"""Keys of steps: equal keys mean that one result serves for both.

Two keys per step. The *definition* key names the operation and the steps it takes files from; it costs nothing to
make. The *content* key names the operation and digests of the very files it takes; it finds the result again when
those steps were built anew and came out the same. Either may hit.
Invariants: a key is SHA-256 over framed parts (``cache.framing``) behind a domain and a version; what may change the
result of a step is a part, what may not (proxies, secret values, addresses of extra hosts, cpu and memory limits,
ids of cache mounts) can't be given or is dropped here.  Rules: docs/formats, "Cache keys"; BuildKit's ``CacheMap``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from cache.framing import Value, describe, frame
from layers.smallhash import hex_sha256
from unionfs.namedtuple import NamedTuple

KEY_VERSION = 1
"""Raised whenever an operation's meaning or its parts change: all older keys miss."""

DEFINITION = "definition"
CONTENT = "content"


class Part(NamedTuple):
    """One named part of a key, as ``explain`` shows it; ``digest`` tells long values apart."""

    name: str
    text: str
    digest: str


class CacheKey(NamedTuple):
    """``digest`` (64 hex digits) is the key, the rest says what went into it. Keys compare by ``digest``."""

    digest: str
    domain: str
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return self.digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and other.digest == self.digest

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.digest)


class StepInput(NamedTuple):
    """A step whose files another step takes: its definition key and the chain ID of its result ("" for scratch).

    The chain ID is part of the definition because a rebuilt input (``--no-cache-filter``) has the same key and
    other files.
    """

    key: str
    chain_id: str


SCRATCH = StepInput("", "")


class KeyedMount(NamedTuple):
    """A ``RUN --mount`` as far as it may change the result. ``source`` is a path inside the mounted tree.

    ``id`` counts for secrets and agents and not for caches; ``input`` is the mounted step's files: its ``StepInput``
    in a definition key, a content hash in a content key, None when the mount takes none.
    """

    kind: str
    target: str
    source: str = ""
    read_only: bool = False
    id: str = ""
    sharing: str = ""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    required: bool = False
    env: str | None = None
    input: StepInput | str | None = None


class KeyedSource(NamedTuple):
    """One source of COPY or ADD: the content hash of what it selects, and its name where the result has the name."""

    digest: str
    name: str | None = None


def key(domain: str, parts: Sequence[tuple[str, Value]]) -> CacheKey:
    """The key of ``parts``, in their order, in a domain that shares no key with another."""
    pieces = [frame(f"pybuild.cache/{KEY_VERSION}/{domain}")]
    kept: list[Part] = []
    for name, value in parts:
        # by exact type: what is equal need not look the same (1 and True)
        framed, part = _make_text_part(name, value) if type(value) is str else _make_part(name, value)
        pieces.append(framed)
        kept.append(part)
    return CacheKey(hex_sha256(b"".join(pieces)), domain, tuple(kept))


def _make_part(name: str, value: Value) -> tuple[bytes, Part]:
    """``name`` and ``value`` framed, and the part for people."""
    framed = frame(value)
    return frame(name) + framed, Part(name, describe(value), hex_sha256(framed)[:16])


@functools.lru_cache(maxsize=512)
def _make_text_part(name: str, value: str) -> tuple[bytes, Part]:
    """As `_make_part`: most parts of a step's key are those of the step before."""
    return _make_part(name, value)


def from_key(manifest_digest: str, platform: str) -> CacheKey:
    """The key of FROM an image; the name and tag it was found by don't count."""
    return key("from", (("manifest", manifest_digest), ("platform", platform)))


def run_key(
    strength: str,
    *,
    parent: StepInput,
    argv: Sequence[str],
    env: Sequence[str],
    cwd: str,
    user: str,
    platform: str,
    hostname: str = "",
    extra_hosts: Iterable[tuple[str, str]] = (),
    mounts: Iterable[KeyedMount] = (),
    network: str = "default",
    security: str = "sandbox",
    ulimits: Iterable[str] = (),
    devices: Iterable[str] = (),
    stdin: bytes | str = b"",
    epoch: int | None = None,
    ignores_owners: bool = False,
) -> CacheKey:
    """The key of RUN. ``env`` is ``K=V`` with the ARGs in scope and without the proxies of the build.

    ``stdin`` is the body of a here-document. The addresses in ``extra_hosts`` don't count, nor do the ids of cache
    mounts.
    """
    parts: list[tuple[str, Value]] = [
        *_parent_parts(strength, parent),
        ("command", tuple(argv)),
        ("stdin", stdin),
        *((f"env {name}", value if equals else None) for name, equals, value in (pair.partition("=") for pair in env)),
        ("directory", cwd),
        ("user", user),
        ("platform", platform),
        ("hostname", hostname),
        ("extra hosts", tuple(sorted({name for name, _ in extra_hosts}))),
        *((f"mount {mount.target}", _mount_value(mount)) for mount in mounts),
        ("network", network),
        ("security", security),
        ("ulimits", tuple(sorted(ulimits))),
        ("devices", tuple(devices)),
        *((("owners", "ignored"),) if ignores_owners else ()),
        *_epoch_parts(epoch),
    ]
    return key(f"run/{strength}", parts)


def copy_key(
    strength: str,
    *,
    parent: StepInput | None,
    destination: str,
    sources: Sequence[KeyedSource | StepInput],
    owner: str | None = None,
    mode: str | None = None,
    flags: Iterable[str] = (),
    identities: Sequence[tuple[str, str]] = (),
    details: Sequence[tuple[str, Value]] = (),
    epoch: int | None = None,
) -> CacheKey:
    """The key of COPY and ADD. ``parent`` is None for ``--link``, whose result doesn't depend on it.

    ``sources`` are content hashes, or the step the files come from in a definition key. ``identities`` are name and
    digest of the target's ``/etc/passwd`` and ``/etc/group`` when ``owner`` holds a name. ``details`` are further
    parts, such as source patterns where ``sources`` says nothing about them.
    """
    parts: list[tuple[str, Value]] = [
        *(() if parent is None else _parent_parts(strength, parent)),
        ("destination", destination),
        ("owner", owner),
        ("mode", mode),
        ("flags", tuple(sorted(flags))),
        *((f"target {path}", digest) for path, digest in identities),
        *details,
        ("sources", tuple((type(source).__name__, *source) for source in sources)),
        *_epoch_parts(epoch),
    ]
    return key(f"copy/{strength}", parts)


def directory_key(
    strength: str,
    *,
    parent: StepInput,
    path: str,
    user: str,
    identities: Sequence[tuple[str, str]] = (),
    epoch: int | None = None,
) -> CacheKey:
    """The key of WORKDIR, which makes ``path`` and its parents for ``user``."""
    parts: list[tuple[str, Value]] = [
        *_parent_parts(strength, parent),
        ("path", path),
        ("user", user),
        *((f"target {name}", digest) for name, digest in identities),
        *_epoch_parts(epoch),
    ]
    return key(f"directory/{strength}", parts)


def _epoch_parts(epoch: int | None) -> tuple[tuple[str, Value], ...]:
    """The time (seconds) that later times in the layer become; without one, the key is as if there was no such part."""
    return () if epoch is None else (("source date epoch", epoch),)


OF_PARENT = frozenset({"parent files", "parent step"})
"""The parts that say what a step stands on."""


def _parent_parts(strength: str, parent: StepInput) -> tuple[tuple[str, Value], ...]:
    """What a step stands on: files alone for a content key, files and the steps that made them for a definition."""
    if strength == CONTENT:
        return (("parent files", parent.chain_id),)
    return (("parent files", parent.chain_id), ("parent step", parent.key))


def _mount_value(mount: KeyedMount) -> Value:
    """``mount`` as a value, the id of a cache left out."""
    counted = mount._replace(id="") if mount.kind == "cache" else mount
    given = counted.input
    return {**counted._replace(input=None)._asdict(), "input": given}
