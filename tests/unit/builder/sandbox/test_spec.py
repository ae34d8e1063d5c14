from __future__ import annotations

import json
from typing import Any

import pytest

from builder.limits import DeviceRate, Limits, Ulimit
from builder.sandbox.protocol import Order, RunDescriptors, order_message, parse_order, parse_run, run_message
from builder.sandbox.spec import (
    Bind,
    File,
    Oom,
    SandboxResult,
    SandboxSpec,
    SpecError,
    Tmpfs,
    User,
    result_from_json,
    spec_from_json,
)

FULL = SandboxSpec(
    argv=("/bin/sh", "-c", "echo ü \udcff"),
    env=("A=1", "B=x=y"),
    cwd="/srv",
    user=User(1000, 1001, (5, 6)),
    hostname="h",
    network="host",
    binds=(Bind("/a", "/b"), Bind("", "/c", read_only=False, kind="cache", fd=0)),
    tmpfs=(Tmpfs("/t", 4096, 0o755),),
    files=(File("/run/secrets/x", "hush", 0o400, 1000, 1001),),
    limits=Limits(
        memory_bytes=1,
        memory_swap_bytes=2,
        cpu_shares=512,
        cpu_period_us=5000,
        cpu_quota_us=2000,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        pids=7,
        shm_bytes=100,
        ulimits=(Ulimit("nofile", 1, -1),),
        device_rates=(DeviceRate("read", 8, 0, 1000),),
    ),
    security="insecure",
    cap_add=("KILL",),
    cap_drop=("ALL",),
    read_only_root=True,
    cgroup_parent="p",
    extra_hosts=("a:1.2.3.4",),
    dns=("1.1.1.1",),
    tty=True,
)


@pytest.mark.parametrize("spec", [FULL, SandboxSpec(argv=("true",))])
def test_specification_crosses(spec: SandboxSpec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "result",
    [SandboxResult(0), SandboxResult(137, 9, Oom(1, 2), 3, 4, 5, 6, 7, 8, "error", ("note",), ("warning",), 9, 10)],
)
def test_result_crosses(result: SandboxResult) -> None:
    assert result_from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"argv": ()}, "argv is empty"),
        ({"argv": [""]}, "argv is empty"),
        ({"argv": "true"}, "argv is no list of strings"),
        ({"argv": [1]}, "argv is no list of strings"),
        ({"env": ["A=\0"]}, "'A=\\x00' holds a zero byte"),
        ({"network": "moon"}, "network is 'moon', expected one of none, host"),
        ({"security": "none"}, "security is 'none', expected one of sandbox, insecure"),
        ({"cwd": "x"}, "path 'x' is not absolute"),
        ({"binds": [{"source": "/a", "target": "b"}]}, "path 'b' is not absolute"),
        ({"tmpfs": [{"target": "/a"}, {"target": "/a/"}]}, "target '/a' is mounted twice"),
        ({"files": [{"target": "x", "text": ""}]}, "path 'x' is not absolute"),
        ({"limits": {"pids": 0}}, "pids is 0, expected more than 0"),
        ({"limits": []}, "limits is list, expected dict"),
        ({"limits": {"unknown": 1}}, "unexpected keyword argument 'unknown'"),
        ({"surprise": 1}, "unexpected keyword argument 'surprise'"),
    ],
)
def test_malformed_specification(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_json({**SandboxSpec(argv=("true",)).to_json(), **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("stdio", [(5, 6, 7), (None, 6, 7), (None, None, None)])
def test_descriptors_keep_their_places(stdio: tuple[int | None, int | None, int | None]) -> None:
    fds = RunDescriptors(3, 4, stdio, (8, 9))
    spec, got = parse_run(run_message(SandboxSpec(argv=("true",)), fds), fds.given())
    assert (spec.argv, got) == (("true",), fds)


def test_order_crosses() -> None:
    order = Order(FULL, {"/etc/hosts": "x"}, 1)
    fds = RunDescriptors(3, 4, (None, 1, 2), (9,))
    assert parse_order(json.loads(json.dumps(order_message(order, fds))), fds.given()) == (order, fds)


@pytest.mark.parametrize(
    ("message", "fds", "text"),
    [
        ({"stdio": [True, True, True], "spec": {}}, (3, 4, 5), "run came with 3 descriptors, expected 5"),
        ({"stdio": [], "spec": {}}, (3, 4), r"run came with stdio \[\]"),
        ({"spec": {}}, (3, 4), "run came with stdio None"),
        ({"stdio": [False] * 3}, (3, 4), "run came without a specification"),
        ({"stdio": [False] * 3, "spec": FULL.to_json()}, (3, 4), "bind at '/c' names descriptor 0 of 0"),
    ],
)
def test_malformed_run(message: dict[str, Any], fds: tuple[int, ...], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        parse_run(message, fds)
