"""Steps that failed, as their commands left them: ``failed/<time>/`` holds the branch, the mounts, and what was run.

::

    failed/<time>-<random>/fs/          what the step had written
                          mounts/N      copies that it had mounted
                          step.json     the build's record, the command's specification, where its secrets were
                          command.json  the build's command line, for ``pybuild resume``

Invariants: a directory counts from the moment step.json is there; whoever makes one or walks in holds its lock
(flock(2)), and only one that nobody holds is removed; of finished ones the newest `MOST` stay. No secret is written.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.buildrecord import BuildRecord, record_from_json, write_record
from builder.diskuse import tree_bytes
from builder.errors import BuildError
from builder.graph import Run, SecretMount
from builder.options import SecretSource
from builder.sandbox.spec import Bind, File, SandboxSpec, spec_from_json
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

DIRECTORY = "failed"
MOST = 3


class Secret(NamedTuple):
    """Where a secret of the step was taken from, and where it was: a file, a variable, or both."""

    id: str
    source: SecretSource
    mount: SecretMount


class Kept(NamedTuple):
    """A directory that is being filled; ``lock`` is held until `finish` or `drop`."""

    path: Path
    lock: int
    spec: SandboxSpec
    secrets: tuple[Secret, ...]


class FailedStep(NamedTuple):
    """A step that can be walked into, for as long as ``lock`` is open. Its place in ``record`` is the last."""

    path: Path
    lock: int
    record: BuildRecord
    spec: SandboxSpec
    secrets: tuple[Secret, ...]


def keep(root: str, upper: Path, spec: SandboxSpec, operation: Run, secrets: Mapping[str, SecretSource]) -> Kept:
    """The branch ``upper`` and the copies that ``spec`` mounts are moved to a directory of their own.

    Raises:
        OSError: they can't be.
    """
    path = Path(root, DIRECTORY, f"{time.time_ns():020}-{os.urandom(3).hex()}")
    path.mkdir(mode=0o700, parents=True)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (path / "mounts").mkdir()
    upper.rename(path / "fs")
    binds: list[Bind] = []
    for number, bind in enumerate(spec.binds):
        if bind.kind == "bind" and bind.source and not os.path.lexists(bind.source):
            # without mounts a step may have removed it
            continue
        if bind.kind == "bind" and bind.source:
            os.rename(bind.source, path / "mounts" / str(number))
            binds.append(bind._replace(source=str(path / "mounts" / str(number))))
        else:
            binds.append(bind)
    mounts = [mount for mount in operation.mounts if isinstance(mount, SecretMount)]
    hidden_files, hidden_names = {mount.target for mount in mounts}, {mount.env for mount in mounts}
    plain = spec._replace(
        binds=tuple(binds),
        files=tuple(file for file in spec.files if file.target not in hidden_files),
        env=tuple(pair for pair in spec.env if pair.partition("=")[0] not in hidden_names),
    )
    found = tuple(Secret(mount.id, secrets[mount.id], mount) for mount in mounts if mount.id in secrets)
    return Kept(path, lock, plain, found)


def finish(kept: Kept, record: BuildRecord) -> None:
    """The step can be walked into; of others only the newest stay."""
    secrets = [
        {"id": secret.id, "source": secret.source._asdict(), "mount": secret.mount._asdict()} for secret in kept.secrets
    ]
    document = {"record": record.to_json(), "spec": kept.spec.to_json(), "secrets": secrets}
    write_record(str(kept.path / "step.json"), document)
    os.close(kept.lock)
    for path in sorted(kept.path.parent.iterdir(), reverse=True)[MOST:]:
        remove(path)


def drop(kept: Kept) -> None:
    """It is gone again."""
    remove_tree(kept.path)
    os.close(kept.lock)


def remove(path: Path) -> bool:
    """The directory is gone; False where somebody makes it or has walked in."""
    with suppress(FileNotFoundError):
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
    return True


def remove_before(root: str, before_ns: int, *, dry_run: bool = False) -> int:
    """Those that failed before the time are gone, but for ones in use; their bytes."""
    freed_bytes = 0
    for path in _newest_first(root):
        if int(path.name.partition("-")[0]) < before_ns:
            size_bytes = tree_bytes(str(path))
            freed_bytes += size_bytes if dry_run or remove(path) else 0
    return freed_bytes


def newest(root: str) -> FailedStep:
    """The step that failed last; the caller closes its lock.

    Raises:
        BuildError: there is none.
    """
    for path in _newest_first(root):
        with suppress(FileNotFoundError, KeyError, ValueError, TypeError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # one that is being made waits for its record
                fcntl.flock(lock, fcntl.LOCK_SH)
                return _read(path, lock)
            except BaseException:
                os.close(lock)
                raise
    raise BuildError("no step has failed here", hints=("pybuild shell IMAGE@STEP walks into an image",))


def _read(path: Path, lock: int) -> FailedStep:
    document: dict[str, Any] = json.loads((path / "step.json").read_bytes())
    secrets = tuple(
        Secret(entry["id"], SecretSource(**entry["source"]), SecretMount(**entry["mount"]))
        for entry in document["secrets"]
    )
    return FailedStep(path, lock, record_from_json(document["record"]), spec_from_json(document["spec"]), secrets)


def _newest_first(root: str) -> Iterator[Path]:
    directory = Path(root, DIRECTORY)
    if directory.is_dir():
        yield from sorted(directory.iterdir(), reverse=True)


def write_command(path: Path, words: list[str]) -> None:
    """The command line of the build that failed in ``path`` can be said again."""
    write_record(str(path / "command.json"), {"directory": os.getcwd(), "words": words})


def read_command(path: Path) -> tuple[str, list[str]]:
    """Directory and words of the build that failed in ``path``. Raises BuildError where nobody noted them."""
    try:
        document: dict[str, Any] = json.loads((path / "command.json").read_bytes())
        return str(document["directory"]), [str(word) for word in document["words"]]
    except (OSError, ValueError, KeyError) as error:
        raise BuildError("the build that failed was not started by a command line") from error


def with_secrets(failed: FailedStep) -> tuple[SandboxSpec, tuple[str, ...]]:
    """The specification with the secrets as they are now, and the ids of those that are gone."""
    spec = failed.spec
    gone: list[str] = []
    for id_, source, mount in failed.secrets:
        try:
            value = None if source.is_stream else source.read()
        except (OSError, KeyError):
            value = None
        if value is None:
            gone.append(id_)
            continue
        if mount.env is not None:
            spec = spec._replace(env=(*spec.env, f"{mount.env}={value.decode('utf-8', 'surrogateescape')}"))
        if mount.target is not None:
            file = File(mount.target, os.fsdecode(value), mount.mode, mount.uid, mount.gid)
            spec = spec._replace(files=(*spec.files, file))
    return spec, tuple(gone)
