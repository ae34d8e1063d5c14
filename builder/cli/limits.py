"""The options that limit what a step, or the command of ``pybuild run``, may use.

Invariants: their spelling, their units and what they refuse are docker's (``docker run``, ``docker build``); 0 and,
where docker has it, -1 mean no limit; what makes no sense is refused before anything is built, in one line that names
the option. On the cached-build path: nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from builder.cli.arguments import parse_bytes
from builder.errors import UsageError
from builder.limits import (
    DEFAULT_SHM_BYTES,
    LEAST_CPUS,
    LEAST_QUOTA_US,
    PERIODS_US,
    ULIMITS,
    UNLIMITED,
    DeviceRate,
    LimitError,
    Limits,
    Ulimit,
    check,
)

LEAST_MEMORY_BYTES = 6 << 20
_WHOLE = r"-?[0-9]+"
_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_LIST = r"[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*"
_MOST = (1 << 63) - 1


def add_limits(parser: argparse.ArgumentParser, whom: str) -> None:
    """``parser`` takes the limits of ``whom``: ``a RUN step``, ``the command``; `read_limits` reads them."""
    _add_memory(parser, whom)
    _add_processor(parser, whom)
    parser.add_argument(
        "--pids-limit", type=parse_pids, metavar="N", help=f"most processes and threads of {whom}, -1 for any number"
    )
    parser.add_argument(
        "--ulimit", action="append", default=[], type=parse_ulimit, metavar="NAME=SOFT[:HARD]",
        help=f"limit of each process of {whom}, as nofile=1024:2048; -1 for none",
    )  # fmt: skip
    for operation in ("read", "write"):
        parser.add_argument(
            f"--device-{operation}-bps", action="append", default=[], type=parse_device_rate, metavar="DEVICE:RATE",
            help=f"most bytes a second that {whom} may {operation} of a disk, as /dev/sda:1mb",
        )  # fmt: skip


class _Resources(argparse.Action):
    """``--resource NAME=VALUE,…`` says what the options ``--NAME VALUE`` say."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Every part is where its own option puts it. Raises argparse.ArgumentError."""
        del parser, option_string
        name = ""
        # the commas of a list of processors begin no name
        for part in re.split(r",(?=[a-z])", str(values)):
            name, equals, value = part.partition("=")
            if not equals or name not in _RESOURCES:
                raise argparse.ArgumentError(
                    self, f"expected NAME=VALUE with one of {', '.join(_RESOURCES)}, got {part!r}"
                )
            try:
                setattr(namespace, name.replace("-", "_"), _RESOURCES[name](value))
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, f"{name}: {error}") from error


def add_resources(parser: argparse.ArgumentParser, whom: str) -> None:
    """``parser`` takes ``--resource``, buildx's word for limits of `add_limits`."""
    parser.add_argument(
        "--resource", action=_Resources, metavar="NAME=VALUE,…",
        help=f"limits of {whom} as memory=1g,cpu-quota=50000: the options of these names",
    )  # fmt: skip


def _add_memory(parser: argparse.ArgumentParser, whom: str) -> None:
    parser.add_argument("-m", "--memory", type=parse_memory, metavar="SIZE", help=f"most memory of {whom}")
    parser.add_argument(
        "--memory-swap", type=parse_swap, metavar="SIZE", help=f"most memory and swap of {whom}, -1 for any swap"
    )
    parser.add_argument(
        "--shm-size", type=parse_shm, default=DEFAULT_SHM_BYTES, metavar="SIZE",
        help="size of /dev/shm, 64m when left out",
    )  # fmt: skip


def _add_processor(parser: argparse.ArgumentParser, whom: str) -> None:
    parser.add_argument("--cpus", type=parse_cpus, metavar="N", help=f"most processors {whom} may keep busy")
    parser.add_argument("-c", "--cpu-shares", type=parse_shares, metavar="N", help=f"weight of {whom}, 1024 is usual")
    parser.add_argument(
        "--cpu-period",
        type=parse_period,
        metavar="USEC",
        help="the time in which --cpu-quota may be used, 100000 is usual",
    )
    parser.add_argument(
        "--cpu-quota", type=parse_quota, metavar="USEC", help=f"processor time {whom} may use in each --cpu-period"
    )
    parser.add_argument(
        "--cpuset-cpus", type=parse_list, metavar="LIST", help=f"processors {whom} may run on, as 0-2,7"
    )
    parser.add_argument("--cpuset-mems", type=parse_list, metavar="LIST", help=f"memory nodes {whom} may use, as 0,1")


def read_limits(arguments: argparse.Namespace) -> Limits:
    """The limits that the options of `add_limits` give.

    Raises:
        UsageError: they contradict each other, or this machine has not what they name.
    """
    _check_agreement(arguments)
    ulimits = {ulimit.name: ulimit for ulimit in arguments.ulimit}
    limits = Limits(
        memory_bytes=arguments.memory,
        memory_swap_bytes=arguments.memory_swap,
        cpus=arguments.cpus,
        cpu_shares=arguments.cpu_shares,
        cpu_period_us=arguments.cpu_period,
        cpu_quota_us=arguments.cpu_quota,
        cpuset_cpus=arguments.cpuset_cpus,
        cpuset_mems=arguments.cpuset_mems,
        pids=arguments.pids_limit,
        shm_bytes=arguments.shm_size,
        ulimits=tuple(ulimits[name] for name in sorted(ulimits)),
        device_rates=(
            *_device_rates("read", arguments.device_read_bps),
            *_device_rates("write", arguments.device_write_bps),
        ),
    )
    try:
        check(limits)
    except LimitError as error:
        raise UsageError(str(error)) from error
    return limits


def parse_memory(text: str) -> int | None:
    """Bytes of a limit on memory, enough for a process; None for 0, no limit.

    Raises:
        argparse.ArgumentTypeError: the text is no size, or less than docker takes.
    """
    size_bytes = parse_bytes(text)
    if 0 < size_bytes < LEAST_MEMORY_BYTES:
        raise argparse.ArgumentTypeError(f"expected at least 6m, got {text!r}")
    return size_bytes or None


def parse_swap(text: str) -> int | None:
    """Bytes of a limit on memory and swap together; -1 for any swap, None for 0, which says nothing.

    Raises:
        argparse.ArgumentTypeError: the text is neither -1 nor a size.
    """
    return UNLIMITED if text.strip() == "-1" else parse_bytes(text) or None


def parse_shm(text: str) -> int:
    """Bytes of /dev/shm, the usual number for 0. Raises argparse.ArgumentTypeError."""
    return parse_bytes(text) or DEFAULT_SHM_BYTES


def parse_cpus(text: str) -> float | None:
    """A number of processors, ``1.5`` for one and a half; None for 0, no limit.

    Raises:
        argparse.ArgumentTypeError: the text is none, or more than there are.
    """
    match = re.fullmatch(_NUMBER, text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a number such as 1.5, got {text!r}")
    cpus, there = float(text), os.cpu_count() or 1
    if cpus and not LEAST_CPUS <= cpus <= there:
        raise argparse.ArgumentTypeError(f"expected {LEAST_CPUS} to {there}, the number of processors, got {text!r}")
    return cpus or None


def parse_pids(text: str) -> int | None:
    """A number of processes; None for 0 and below, no limit. Raises argparse.ArgumentTypeError."""
    count = _parse_whole(text)
    return count if count > 0 else None


def parse_shares(text: str) -> int | None:
    """A weight; None for 0, the usual one. Raises argparse.ArgumentTypeError."""
    shares = _parse_whole(text)
    if shares < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return shares or None


def parse_period(text: str) -> int | None:
    """Microseconds; None for 0, the usual ones. Raises argparse.ArgumentTypeError."""
    period_us, (least, most) = _parse_whole(text), PERIODS_US
    if period_us and not least <= period_us <= most:
        raise argparse.ArgumentTypeError(f"expected {least} to {most} microseconds, got {text!r}")
    return period_us or None


def parse_quota(text: str) -> int | None:
    """Microseconds; None for 0 and below, no limit. Raises argparse.ArgumentTypeError."""
    quota_us = _parse_whole(text)
    if 0 < quota_us < LEAST_QUOTA_US:
        raise argparse.ArgumentTypeError(f"expected at least {LEAST_QUOTA_US} microseconds, got {text!r}")
    return quota_us if quota_us > 0 else None


def parse_list(text: str) -> str | None:
    """Numbers and ranges of numbers, ``0-2,7``; None for the empty list, no limit. cpuset(7), "List format".

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    if text and (re.fullmatch(_LIST, text) is None):
        raise argparse.ArgumentTypeError(f"expected numbers such as 0-2,7, got {text!r}")
    return text or None


def parse_ulimit(text: str) -> Ulimit:
    """``NAME=SOFT[:HARD]``; without the second number both are the first.

    Raises:
        argparse.ArgumentTypeError: the name is not known, a number is none, or the soft limit is above the hard one.
    """
    name, separator, values = text.partition("=")
    first, colon, second = values.partition(":")
    if not separator or re.fullmatch(_WHOLE, first) is None or (colon and re.fullmatch(_WHOLE, second) is None):
        raise argparse.ArgumentTypeError(f"expected NAME=SOFT[:HARD] such as nofile=1024:2048, got {text!r}")
    if name not in ULIMITS:
        raise argparse.ArgumentTypeError(f"unknown limit {name!r}, known are {', '.join(sorted(ULIMITS))}")
    soft = _parse_whole(first)
    hard = _parse_whole(second) if colon else soft
    if min(soft, hard) < UNLIMITED:
        raise argparse.ArgumentTypeError(f"expected -1 or more, got {text!r}")
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise argparse.ArgumentTypeError(f"expected a soft limit that is no more than the hard one, got {text!r}")
    return Ulimit(name, soft, hard)


def parse_device_rate(text: str) -> tuple[str, int]:
    """Path and bytes of ``/dev/DISK:RATE``.

    Raises:
        argparse.ArgumentTypeError: one of them is missing or makes no sense.
    """
    path, _, rate = text.rpartition(":")
    if not path.startswith("/dev/"):
        raise argparse.ArgumentTypeError(f"expected DEVICE:RATE such as /dev/sda:1mb, got {text!r}")
    bytes_per_second = parse_bytes(rate)
    if not bytes_per_second:
        raise argparse.ArgumentTypeError(f"expected a rate above zero, got {text!r}")
    return path, bytes_per_second


_RESOURCES: Mapping[str, Callable[[str], object]] = {
    "memory": parse_memory,
    "memory-swap": parse_swap,
    "cpu-shares": parse_shares,
    "cpu-period": parse_period,
    "cpu-quota": parse_quota,
    "cpuset-cpus": parse_list,
    "cpuset-mems": parse_list,
}


def _parse_whole(text: str) -> int:
    if re.fullmatch(_WHOLE, text) is None or abs(int(text)) > _MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _check_agreement(arguments: argparse.Namespace) -> None:
    """The options agree with each other and with the machine. Raises UsageError."""
    memory, swap = arguments.memory, arguments.memory_swap
    if swap is not None and swap != UNLIMITED:
        if memory is None:
            raise UsageError("--memory-swap: expected --memory beside it")
        if swap < memory:
            raise UsageError("--memory-swap: expected no less than --memory, since it counts memory and swap together")
    if swap == UNLIMITED and memory is None:
        arguments.memory_swap = None
    if arguments.cpus is not None:
        for option, value in (("--cpu-period", arguments.cpu_period), ("--cpu-quota", arguments.cpu_quota)):
            if value is not None:
                raise UsageError(f"{option}: --cpus says the same, one of them is too many")
    if (arguments.cpuset_cpus, arguments.cpuset_mems) != (None, None):
        from builder.cli.machine import check_memory_nodes, check_processors

        check_processors("--cpuset-cpus", arguments.cpuset_cpus)
        check_memory_nodes("--cpuset-mems", arguments.cpuset_mems)


def _device_rates(operation: Literal["read", "write"], given: Sequence[tuple[str, int]]) -> list[DeviceRate]:
    if not given:
        return []
    from builder.cli.machine import find_disk

    return [DeviceRate(operation, *find_disk(f"--device-{operation}-bps", path), rate) for path, rate in given]
