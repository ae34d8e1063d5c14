"""Rules for every test: a missing privilege skips, or fails where REQUIRE names the marker; nothing is left behind."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from harness import abilities, inside, leaks, rights
from harness.bases import base_archive, busybox_root, debian_archive, debian_root
from harness.dockerd import dockerd
from harness.pybuild import pybuild

__all__ = ["base_archive", "busybox_root", "debian_archive", "debian_root", "dockerd", "pybuild"]


def pytest_configure(config: pytest.Config) -> None:
    """Temporary files of the whole session are in one short-named directory (socket paths have 108 bytes)."""
    unknown = abilities.required_markers() - {*abilities.PROBES, "kernel"}
    if unknown:
        raise pytest.UsageError(f"REQUIRE names unknown markers: {', '.join(sorted(unknown))}")
    # no underscore: buildah makes names of images of paths, in which none may end with one
    directory = os.path.join(tempfile.gettempdir(), f"pyb-{uuid.uuid4().hex[:8]}")
    os.mkdir(directory, 0o700)
    os.environ["TMPDIR"] = directory
    os.environ[leaks.TOKEN] = uuid.uuid4().hex
    tempfile.tempdir = None
    rights.skip_what_is_refused()
    # a shell without job control has what is in the background ignore two of them, nohup the third, and commands
    # leave alone what they were started to ignore
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if os.geteuid() != 0:
        # as a login gives one; without it peers make directories of their own among the temporary files
        os.environ.setdefault("XDG_RUNTIME_DIR", os.path.join(directory, "run"))
        os.makedirs(os.environ["XDG_RUNTIME_DIR"], 0o700, exist_ok=True)
    config.add_cleanup(lambda: inside.remove_tree(Path(directory)))


def _markers(item: pytest.Item) -> set[str]:
    return {marker.name for marker in item.iter_markers()} & abilities.PROBES.keys()


def _missing_in_kernel(item: pytest.Item) -> list[str]:
    reasons = (abilities.KERNEL[part]() for mark in item.iter_markers("kernel") for part in mark.args)
    return [reason for reason in reasons if reason is not None]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for missing in _missing_in_kernel(item):
        if "kernel" in abilities.required_markers():
            pytest.fail(f"REQUIRE=kernel, but {missing}", pytrace=False)
        pytest.skip(missing)
    for mark in item.iter_markers():
        reason = abilities.RIGHTS[mark.name]() if mark.name in abilities.RIGHTS else None
        if reason is not None:
            abilities.refuse(f"{mark.args[0]}: {reason}")
    for marker in sorted(_markers(item)):
        reason = abilities.PROBES[marker]()
        if reason is None:
            continue
        if marker in abilities.required_markers():
            pytest.fail(f"REQUIRE={marker}, but {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself although REQUIRE names its marker has failed, but for what a plain user is refused."""
    report = yield
    must = set() if _missing_in_kernel(item) else _markers(item) & abilities.required_markers()
    is_refused = call.excinfo is not None and isinstance(call.excinfo.value, abilities.RefusedToAPlainUser)
    if report.skipped and must and not is_refused and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although REQUIRE names {', '.join(sorted(must))}: {call.excinfo}"
    return report


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails a test that leaves a descriptor, mount, process, cgroup or temporary file; puts the umask back.

    Whoever serves a filesystem in this process sets the umask to 0, as a server has to.
    """
    umask = os.umask(0)
    os.umask(umask)
    base = str(tmp_path_factory.getbasetemp())
    everywhere = bool(_markers(request.node))
    before = leaks.take(base, everywhere=everywhere)
    yield
    os.umask(umask)
    left = leaks.left_behind(before, base, everywhere=everywhere)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).resolve().parent.parent
