"""What one build is asked for, as a value. On the cached-build path: nothing heavy is imported."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from builder.limits import Limits
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.registry.settings import RegistrySettings


class SecretSource(NamedTuple):
    """Where a secret is: in the file ``path``, or in the environment variable ``variable``; one of them is set."""

    path: str | None
    variable: str | None

    def read(self) -> bytes:
        """The secret. Raises OSError when the file can't be read, KeyError when the variable is gone.

        What can be read once alone is read at the first call, which waits for it.
        """
        if self.path is None:
            return os.environb[os.fsencode(self.variable or "")]
        if self.is_stream:
            status = os.stat(self.path)
            return _read_once(self.path, status.st_dev, status.st_ino)
        with open(self.path, "rb") as file:
            return file.read()

    @property
    def is_stream(self) -> bool:
        """Whether it can be read once alone, as from a pipe: of that it is remembered while the process lives."""
        return self.path is not None and not stat.S_ISREG(os.stat(self.path).st_mode)


@cache
def _read_once(path: str, _device: int, _inode: int) -> bytes:
    """The names of pipes are used again for others: ``<(command)`` is /dev/fd/63 each time."""
    with open(path, "rb") as file:
        return file.read()


HOST_GATEWAY = "host-gateway"
"""What stands for the address of the host, where an address of ``extra_hosts`` is expected."""


class Dns(NamedTuple):
    """How names are looked up; what is empty is as on the host. A ``search`` of ``.`` alone is none."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Attestation(NamedTuple):
    """What is to be said of the result: ``kind`` is provenance or sbom, ``settings`` are its further fields."""

    kind: str
    settings: Mapping[str, str] = {}


class Annotation(NamedTuple):
    """An annotation of the result.

    ``level`` is manifest, index, manifest-descriptor or index-descriptor; ``platform`` is the one whose manifest gets
    it, None for all.
    """

    level: str
    key: str
    value: str
    platform: str | None = None


class BuildOptions(NamedTuple):
    """One build.

    ``context`` is a directory or what else `builder.contexts` knows, ``contexts`` are such by name; ``dockerfile`` a
    path, None for ``Dockerfile`` in the context, ``-`` for stdin; ``secrets`` and ``agents`` (paths of sockets)
    are there for mounts, by id; ``allowed`` are entitlements such as ``security.insecure``; ``outputs`` are the fields
    of ``-o``; ``platforms`` are ``os/arch[/variant]`` each, none for the machine's own: several make a multi-platform
    image. ``no_cache_stages`` are stages, by name or number, whose steps are run anew. ``load``: the image is kept in
    the store whatever that takes. ``cache_from`` and ``cache_to`` are the fields of those options. ``isolation`` is a
    level of `builder.sandbox.isolation`, or ``auto`` for the strongest that works. ``runtime`` is an OCI runtime, by
    name or path, that steps are handed to.
    ``hostname`` is that of steps that name none, empty for the usual one.
    ``cap_add`` and ``cap_drop`` are names without ``CAP_``, or ``ALL``; ``cgroup_parent`` is a path below the roots of
    the control groups. ``ignore_chown_errors`` gives all files to root where nobody else exists (`builder.owners`).
    ``on_failure`` is ``keep`` where a step that failed is to be walked into. ``pull`` says when a registry is asked for
    a base: ``missing`` from the store, ``always``, if it is ``newer`` and can be had, ``never``. ``base`` takes the
    place of what the first FROM names; ``environment`` is set where a stage begins, ``unset_environment`` are variables
    that the result has not. ``registries`` is how they are spoken to, None for what the configuration says.
    """

    context: str
    dockerfile: str | None = None
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    target: str | None = None
    platforms: tuple[str, ...] = ()
    no_cache: bool = False
    pull: str = "missing"
    push: bool = False
    load: bool = False
    outputs: tuple[Mapping[str, str], ...] = ()
    network: str = "default"
    limits: Limits = Limits()
    extra_hosts: tuple[str, ...] = ()
    dns: Dns = Dns()
    jobs: int | None = None
    source_date_epoch: int | None = None
    explain: bool = False
    secrets: Mapping[str, SecretSource] = {}
    agents: Mapping[str, str] = {}
    allowed: frozenset[str] = frozenset()
    contexts: Mapping[str, str] = {}
    no_cache_stages: tuple[str, ...] = ()
    cache_from: tuple[Mapping[str, str], ...] = ()
    cache_to: tuple[Mapping[str, str], ...] = ()
    isolation: str = "auto"
    runtime: str | None = None
    ignore_chown_errors: bool = False
    hostname: str = ""
    attestations: tuple[Attestation, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cgroup_parent: str | None = None
    on_failure: str = "keep"
    base: str | None = None
    environment: Mapping[str, str] = {}
    unset_environment: tuple[str, ...] = ()
    registries: RegistrySettings | None = None

    @property
    def inline_cache(self) -> bool:
        """Whether the image is to tell of its cache: ``type=inline``, or the build argument that asks for it."""
        asked = self.build_args.get("BUILDKIT_INLINE_CACHE", "") in {"1", "t", "T", "true", "TRUE", "True"}
        return asked or any(fields["type"] == "inline" for fields in self.cache_to)


def default_root(environment: Mapping[str, str]) -> str:
    """Where images, layers and cache live: ``$XDG_DATA_HOME/pybuild``."""
    data = environment.get("XDG_DATA_HOME") or os.path.join(environment.get("HOME") or "/root", ".local", "share")
    return os.path.join(data, "pybuild")
