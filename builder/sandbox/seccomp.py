"""The filter of system calls: moby's default profile as a BPF program, assembled here.

Invariants: what is not allowed by name is refused with EPERM; numbers above the newest known call, and ``clone3``,
whose flags a filter can't see, answer ENOSYS, so that a C library falls back instead of failing; a foreign architecture
is killed. The program is a binary search over ranges of numbers, about ten instructions per call
(seccomp(2), Documentation/userspace-api/seccomp_filter.rst). The table of calls is ``syscalls.tsv``.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Mapping, Sequence

from unionfs.namedtuple import NamedTuple

_TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "syscalls.tsv")
_NEWEST_KNOWN = 471

# classic BPF: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_{JA,JEQ,JGE,JSET}|BPF_K, BPF_RET|BPF_K
_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
# struct seccomp_data: nr, arch, instruction_pointer, args[6]; the low half of the first argument
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_LONG_JUMP = 255
_SYS_ADMIN = 1 << 21

_ALLOW = 0x7FFF_0000
_KILL = 0x8000_0000
_EPERM = 0x0005_0000 | 1
_ENOSYS = 0x0005_0000 | 38
# an error that is none: the call returns 0 and is not made
_DONE = 0x0005_0000
_CHOWNS = frozenset(("chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32"))

_NAMESPACE_FLAGS = 0x7E02_0000
_AF_ALG, _AF_VSOCK = 38, 40
_PERSONALITIES = (0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)

Instruction = tuple[int, int, int, int]


class _Architecture(NamedTuple):
    audit: int
    column: int


# by the machine's own name, the architectures whose programs it runs: its own first
_ARCHITECTURES: Mapping[str, tuple[_Architecture, ...]] = {
    "x86_64": (_Architecture(0xC000_003E, 0), _Architecture(0x4000_0003, 1)),
    "aarch64": (_Architecture(0xC000_00B7, 2), _Architecture(0x4000_0028, 3)),
}


class Call(NamedTuple):
    """One row of the table: ``numbers`` per architecture, None where it does not exist there."""

    name: str
    needs: tuple[str, ...]
    numbers: tuple[int | None, ...]


def read_table(path: str = _TABLE) -> tuple[Call, ...]:
    """The calls a step may make, as ``syscalls.tsv`` lists them."""
    calls: list[Call] = []
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.startswith("#"):
                continue
            name, needs, *numbers = line.split()
            calls.append(
                Call(
                    name,
                    () if needs == "-" else tuple(needs.split(",")),
                    tuple(None if number == "-" else int(number) for number in numbers),
                )
            )
    return tuple(calls)


def may_install(status: str) -> bool:
    """Whether a process whose /proc/PID/status is this may install a filter without giving anything up. seccomp(2).

    CAP_SYS_ADMIN lets it; else it takes no_new_privs, with which setuid programs gain nothing: a process that has that
    already loses nothing by it.
    """
    fields: dict[str, str] = {}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    return bool(int(fields["CapEff"], 16) & _SYS_ADMIN) or fields.get("NoNewPrivs", "").strip() == "1"


class Rule(NamedTuple):
    """Calls ``names`` are allowed, or answered with ``errno``; where ``test`` is set, if the first argument meets it.

    A test is a comparison (``==``, ``<``, ``>``, or ``&`` for: none of these bits is set) and a number.
    """

    names: tuple[str, ...]
    errno: int = 0
    test: tuple[str, int] | None = None


def plan_rules(capabilities: Collection[str], table: Sequence[Call]) -> tuple[Rule, ...]:
    """What `compile_filter` makes a program of, as rules for others; whatever has none is answered with EPERM."""
    rules: list[Rule] = []
    plain: list[str] = []
    for call in table:
        one = (call.name,)
        if call.name == "clone" and "SYS_ADMIN" not in capabilities:
            rules.append(Rule(one, test=("&", _NAMESPACE_FLAGS)))
        elif call.name == "clone3" and "SYS_ADMIN" not in capabilities:
            rules.append(Rule(one, errno.ENOSYS))
        elif call.name == "socket":
            # between the two refused families, and around them
            between = [Rule(one, test=("==", family)) for family in range(_AF_ALG + 1, _AF_VSOCK)]
            rules += [Rule(one, test=("<", _AF_ALG)), *between, Rule(one, test=(">", _AF_VSOCK))]
        elif call.name == "personality":
            rules += [Rule(one, test=("==", value)) for value in _PERSONALITIES]
        elif not call.needs or any(need in capabilities for need in call.needs):
            plain.append(call.name)
    return (Rule(tuple(plain)), *rules)


def compile_filter(
    capabilities: Collection[str], machine: str, table: Sequence[Call], *, ignore_chown: bool = False
) -> bytes:
    """The program for a step that holds ``capabilities`` (names without ``CAP_``); empty on an unknown machine.

    ``ignore_chown``: calls that give files to others do nothing and succeed.
    """
    program: list[Instruction] = [(_LOAD, 0, 0, _ARCH_AT)]
    architectures = _ARCHITECTURES.get(machine, ())
    if not architectures:
        return b""
    for architecture in architectures:
        ranges = _ranges(capabilities, architecture.column, table, _CHOWNS if ignore_chown else frozenset())
        block = [(_LOAD, 0, 0, _NUMBER_AT), *_search(ranges)]
        program += [(_EQUAL, 1, 0, architecture.audit), (_JUMP, 0, 0, len(block)), *block]
    program.append(_return(_KILL))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _Range(NamedTuple):
    """From ``first`` up to the next range the answer is the code ``answer``."""

    first: int
    answer: tuple[Instruction, ...]


def _ranges(
    capabilities: Collection[str], column: int, table: Sequence[Call], ignored: Collection[str]
) -> list[_Range]:
    answers: dict[int, tuple[Instruction, ...]] = {}
    for call in table:
        number = call.numbers[column]
        if number is not None:
            answers[number] = (_return(_DONE),) if call.name in ignored else _answer(call, capabilities)
    ranges = [_Range(0, answers.get(0, (_return(_EPERM),)))]
    for number in sorted({*answers, *(number + 1 for number in answers), _NEWEST_KNOWN + 1}):
        unlisted = _EPERM if number <= _NEWEST_KNOWN else _ENOSYS
        answer = answers.get(number, (_return(unlisted),))
        if answer != ranges[-1].answer:
            ranges.append(_Range(number, answer))
    return ranges


def _answer(call: Call, capabilities: Collection[str]) -> tuple[Instruction, ...]:
    if call.name == "clone" and "SYS_ADMIN" not in capabilities:
        return (_load_argument(), (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS), _return(_EPERM), _return(_ALLOW))
    if call.name == "clone3" and "SYS_ADMIN" not in capabilities:
        return (_return(_ENOSYS),)
    if call.name == "socket":
        return (
            _load_argument(),
            (_EQUAL, 1, 0, _AF_ALG),
            (_EQUAL, 0, 1, _AF_VSOCK),
            _return(_EPERM),
            _return(_ALLOW),
        )
    if call.name == "personality":
        last = len(_PERSONALITIES)
        tests = [(_EQUAL, last - place, 0, value) for place, value in enumerate(_PERSONALITIES)]
        return (_load_argument(), *tests, _return(_EPERM), _return(_ALLOW))
    if call.needs and not any(need in capabilities for need in call.needs):
        return (_return(_EPERM),)
    return (_return(_ALLOW),)


def _search(ranges: Sequence[_Range]) -> list[Instruction]:
    if len(ranges) == 1:
        return list(ranges[0].answer)
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    pivot = ranges[middle].first
    if len(below) <= _LONG_JUMP:
        return [(_AT_LEAST, len(below), 0, pivot), *below, *above]
    return [(_AT_LEAST, 0, 1, pivot), (_JUMP, 0, 0, len(below)), *below, *above]


def _load_argument() -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENT_AT)


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)
