"""Limits on the command line: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

import os
from typing import Any

import pytest

from builder.cli.limits import read_limits
from builder.cli.reference import parser_of
from builder.errors import UsageError
from builder.limits import Limits, Ulimit

MIB = 1 << 20


def limits_of(*words: str) -> Limits:
    return read_limits(parser_of("build").read([*words, "."]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["-m", "64m"], {"memory_bytes": 64 * MIB}),
        (["--memory=0", "--memory-swap=0"], {}),
        (["--memory-swap=-1"], {}),
        (["-m", "64m", "--memory-swap", "-1"], {"memory_bytes": 64 * MIB, "memory_swap_bytes": -1}),
        (["-m", "64m", "--memory-swap", "64m"], {"memory_bytes": 64 * MIB, "memory_swap_bytes": 64 * MIB}),
        (["--cpus", ".5"], {"cpus": 0.5}),
        (["--cpus", "0"], {}),
        (["-c", "512"], {"cpu_shares": 512}),
        (["--cpu-shares", "0"], {}),
        (["--cpu-period", "50000", "--cpu-quota", "20000"], {"cpu_period_us": 50_000, "cpu_quota_us": 20_000}),
        (["--cpu-quota", "-1"], {}),
        (["--cpuset-cpus", "0", "--cpuset-mems", "0"], {"cpuset_cpus": "0", "cpuset_mems": "0"}),
        (["--cpuset-cpus", ""], {}),
        (["--pids-limit", "20"], {"pids": 20}),
        (["--pids-limit", "-1"], {}),
        (["--shm-size", "1g"], {"shm_bytes": 1 << 30}),
        (["--shm-size", "0"], {}),
        (["--ulimit", "nofile=10:20"], {"ulimits": (Ulimit("nofile", 10, 20),)}),
        (["--ulimit", "core=-1"], {"ulimits": (Ulimit("core", -1, -1),)}),
        (["--ulimit", "core=0:-1"], {"ulimits": (Ulimit("core", 0, -1),)}),
        (
            ["--ulimit", "nofile=1", "--ulimit", "core=0", "--ulimit", "nofile=2"],
            {"ulimits": (Ulimit("core", 0, 0), Ulimit("nofile", 2, 2))},
        ),
    ],
)
def test_limits(words: list[str], expected: dict[str, Any]) -> None:
    assert limits_of(*words) == Limits()._replace(**expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "4m"], "argument -m/--memory: expected at least 6m, got '4m'"),
        (["-m", "-1"], "argument -m/--memory: expected a size such as 512m or 2g, got '-1'"),
        (["--memory-swap", "64m"], "--memory-swap: expected --memory beside it"),
        (
            ["-m", "64m", "--memory-swap", "32m"],
            "--memory-swap: expected no less than --memory, since it counts memory and swap together",
        ),
        (
            ["--cpus", "4096"],
            f"argument --cpus: expected 0.01 to {os.cpu_count()}, the number of processors, got '4096'",
        ),
        (["--cpus", "0.001"], f"argument --cpus: expected 0.01 to {os.cpu_count()}"),
        (["--cpus", "-1"], "argument --cpus: expected a number such as 1.5, got '-1'"),
        (["--cpus", "1", "--cpu-quota", "5000"], "--cpu-quota: --cpus says the same, one of them is too many"),
        (["--cpus", "1", "--cpu-period", "5000"], "--cpu-period: --cpus says the same, one of them is too many"),
        (["--cpu-shares", "-3"], "argument -c/--cpu-shares: expected a whole number above zero, got '-3'"),
        (["--cpu-shares", "1e3"], "argument -c/--cpu-shares: expected a whole number, got '1e3'"),
        (["--cpu-period", "999"], "argument --cpu-period: expected 1000 to 1000000 microseconds, got '999'"),
        (["--cpu-period", "1000001"], "argument --cpu-period: expected 1000 to 1000000 microseconds, got '1000001'"),
        (["--cpu-quota", "500"], "argument --cpu-quota: expected at least 1000 microseconds, got '500'"),
        (["--cpuset-cpus", "0-"], "argument --cpuset-cpus: expected numbers such as 0-2,7, got '0-'"),
        (["--cpuset-cpus", "0;1"], "argument --cpuset-cpus: expected numbers such as 0-2,7, got '0;1'"),
        (["--cpuset-cpus", "0,4000"], "--cpuset-cpus 0,4000: there is no 4000, processors are 0"),
        (["--cpuset-cpus", "1-0"], "--cpuset-cpus 1-0: the range 1-0 runs backwards"),
        (["--cpuset-mems", "77"], "--cpuset-mems 77: there is no 77, memory nodes are 0"),
        (["--pids-limit", "many"], "argument --pids-limit: expected a whole number, got 'many'"),
        (["--pids-limit", "9" * 30], "argument --pids-limit: expected a whole number"),
        (["--shm-size", "-5"], "argument --shm-size: expected a size such as 512m or 2g, got '-5'"),
        (
            ["--ulimit", "files=1"],
            "argument --ulimit: unknown limit 'files', known are as, core, cpu, data, fsize, locks, memlock",
        ),
        (["--ulimit", "nofile"], "argument --ulimit: expected NAME=SOFT[:HARD] such as nofile=1024:2048, got 'nofile'"),
        (["--ulimit", "nofile=1:"], "argument --ulimit: expected NAME=SOFT[:HARD]"),
        (["--ulimit", "nofile=1:2:3"], "argument --ulimit: expected NAME=SOFT[:HARD]"),
        (
            ["--ulimit", "nofile=20:10"],
            "argument --ulimit: expected a soft limit that is no more than the hard one, got 'nofile=20:10'",
        ),
        (["--ulimit", "nofile=-1:10"], "argument --ulimit: expected a soft limit that is no more than the hard one"),
        (["--ulimit", "nofile=-2"], "argument --ulimit: expected -1 or more, got 'nofile=-2'"),
        (
            ["--device-read-bps", "/dev/sda"],
            "argument --device-read-bps: expected DEVICE:RATE such as /dev/sda:1mb, got '/dev/sda'",
        ),
        (["--device-read-bps", "sda:1mb"], "argument --device-read-bps: expected DEVICE:RATE such as /dev/sda:1mb"),
        (["--device-read-bps", "/dev/sda:fast"], "argument --device-read-bps: expected a size such as 512m or 2g"),
        (["--device-read-bps", "/dev/sda:0"], "argument --device-read-bps: expected a rate above zero"),
        (
            ["--device-write-bps", "/dev/no-disk-here:1mb"],
            "--device-write-bps: '/dev/no-disk-here': no such file or directory",
        ),
        (["--device-write-bps", "/dev/null:1mb"], "--device-write-bps: '/dev/null' is no block device"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        limits_of(*words)
    assert message in caught.value.message
    assert caught.value.exit_status == 2
