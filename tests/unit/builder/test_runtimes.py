"""Which OCI runtime ``--runtime`` means, and what it is told of a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.limits import Limits, Ulimit
from builder.runtimes import find_runtime
from builder.sandbox import caps, mounts, seccomp
from builder.sandbox.oci import Surroundings, plan_config
from builder.sandbox.spec import Bind, Runtime, SandboxSpec, User


def program(directory: Path, name: str, said: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{said}\nEOF\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "joins"),
    [
        ("runc version 1.1.5+ds1\ncommit: x\nspec: 1.0.2-dev\ngo: go1.19.8", False),
        ("runc version 1.0.0\nspec: 1.0.2-dev", False),
        ("crun version 1.8.1\ncommit: f\nrundir: /run/crun\nspec: 1.0.0", True),
        ("youki version 0.3.3\ncommit: x\nspec: 1.0.2", False),
    ],
)
def test_runtime_by_path(tmp_path: Path, said: str, joins: bool) -> None:
    path = program(tmp_path, "runtime", said)
    assert find_runtime(path) == Runtime(path, joins)


def test_runtime_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, "crun", "crun version 1.14\nspec: 1.0.0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_runtime("crun") == Runtime(path, joins_groups=True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("runc version 0.1.1\nspec: 1.0.0-rc1", "is runc 0.1.1, too old: it takes runc 1.0.0 or newer"),
        ("crun version 0.10.6\nspec: 1.0.0", "is crun 0.10.6, too old: it takes crun 0.18 or newer"),
        ("other version 3\nspec: 0.9", "is other 3, too old: it takes one of runtime-spec 1.0 or newer"),
        ("ls (GNU coreutils) 9.1\nmore", "is no OCI runtime: --version says 'ls (GNU coreutils) 9.1'"),
    ],
)
def test_runtime_that_will_not_do(tmp_path: Path, said: str, message: str) -> None:
    path = program(tmp_path, "runtime", said)
    with pytest.raises(BuildError) as caught:
        find_runtime(path)
    assert caught.value.message == f"runtime {path!r} {message}"


def test_runtime_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "crun", "crun version 1.14\nspec: 1.0.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError) as caught:
        find_runtime("rnuc")
    assert (caught.value.message, caught.value.hints) == (
        "runtime 'rnuc' is not in PATH; installed: crun",
        ("did you mean runc?",),
    )
    with pytest.raises(BuildError, match="runtime 'runc' is not in PATH; installed: crun"):
        find_runtime("runc")
    with pytest.raises(BuildError, match=r"runtime '\./missing': no such file"):
        find_runtime("./missing")
    (tmp_path / "plain").write_text("")
    with pytest.raises(BuildError, match="plain': not executable"):
        find_runtime(str(tmp_path / "plain"))


def config(spec: SandboxSpec, *, mask: int = caps.DEFAULT_MASK, all_groups: bool = True) -> dict[str, object]:
    base = mounts.plan_base(insecure=spec.security == "insecure", device_control=True, cgroups=(("", "/cgroup"),))
    own = mounts.plan_own(spec, {"/etc/hosts": "x"})
    around = Surroundings(
        root="/r",
        sources={"/etc/hosts": "/t/0", "/data": "/m/0"},
        capabilities=mask,
        calls=seccomp.read_table(),
        machine="x86_64",
        cgroups_path="a/1",
        confine_devices=True,
        all_groups=all_groups,
    )
    return plan_config(spec, base, own, around)


def at(document: object, *path: str) -> object:
    for name in path:
        assert isinstance(document, dict)
        document = document[name]
    return document


def test_document() -> None:
    limits = Limits(ulimits=(Ulimit("nofile", 10, -1),))
    spec = SandboxSpec(("id",), ("A=1",), "/w", User(5, 6, (7,)), binds=(Bind("/host", "/data"),), limits=limits)
    document = config(spec)
    assert at(document, "process", "user") == {"uid": 5, "gid": 6, "additionalGids": (6, 7), "umask": 0o022}
    assert at(document, "process", "capabilities", "effective") == []
    assert len(at(document, "process", "capabilities", "bounding")) == 14  # type: ignore[arg-type]
    assert at(document, "process", "rlimits") == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}]
    found = {mount["destination"]: mount for mount in at(document, "mounts")}  # type: ignore[attr-defined]
    assert found["/data"]["options"] == ["rbind", "rprivate", "ro", "nosuid", "nodev"]
    assert found["/dev/pts"]["options"][-1] == "gid=5"
    assert found["/sys/fs/cgroup"]["type"] == "cgroup"
    assert list(found).index("/etc/hosts") < list(found).index("/data")
    assert "/proc/1/fdinfo" not in at(document, "linux", "maskedPaths")  # type: ignore[operator]
    assert "/proc/kcore" in at(document, "linux", "maskedPaths")  # type: ignore[operator]


def test_document_where_ids_are_few() -> None:
    mounts_ = at(config(SandboxSpec(("id",)), all_groups=False), "mounts")
    (terminals,) = (mount for mount in mounts_ if mount["destination"] == "/dev/pts")  # type: ignore[attr-defined]
    assert not any(word.startswith("gid=") for word in terminals["options"])


def test_insecure_document() -> None:
    document = config(SandboxSpec(("id",), security="insecure"), mask=caps.ALL_MASK)
    assert "seccomp" not in at(document, "linux")  # type: ignore[operator]
    assert at(document, "linux", "maskedPaths") == at(document, "linux", "readonlyPaths") == []
    assert at(document, "linux", "resources", "devices") == [{"allow": True, "access": "rwm"}]


def test_rules_of_the_filter() -> None:
    rules = at(config(SandboxSpec(("id",))), "linux", "seccomp", "syscalls")
    by_name: dict[str, list[dict[str, object]]] = {}
    for rule in rules:  # type: ignore[attr-defined]
        for name in rule["names"]:
            by_name.setdefault(name, []).append({key: rule[key] for key in rule if key != "names"})
    assert by_name["read"] == [{"action": "SCMP_ACT_ALLOW"}]
    assert by_name["clone3"] == [{"action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    (clone,) = by_name["clone"]
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert [rule["args"][0]["op"] for rule in by_name["socket"]] == [  # type: ignore[index]
        "SCMP_CMP_LT",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GT",
    ]
    assert "mount" not in by_name
    assert "mount" in str(at(config(SandboxSpec(("id",)), mask=caps.ALL_MASK), "linux", "seccomp", "syscalls"))
