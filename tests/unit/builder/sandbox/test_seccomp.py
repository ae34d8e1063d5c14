"""The filter, run on a small BPF machine over every call number: what the table says is what happens."""

from __future__ import annotations

import errno
import struct

import pytest

from builder.sandbox import caps, seccomp

ALLOW, KILL = 0x7FFF_0000, 0x8000_0000
EPERM, ENOSYS = 0x5_0000 | errno.EPERM, 0x5_0000 | errno.ENOSYS
X86_64, I386, AARCH64, ARM = 0xC000_003E, 0x4000_0003, 0xC000_00B7, 0x4000_0028
DEFAULT = caps.names_of(caps.DEFAULT_MASK)
TABLE = seccomp.read_table()
PROGRAMS = {machine: seccomp.compile_filter(DEFAULT, machine, TABLE) for machine in ("x86_64", "aarch64")}


def outcome(program: bytes, arch: int, number: int, argument: int = 0) -> int:
    """What the kernel answers: classic BPF over struct seccomp_data (linux/filter.h)."""
    data = struct.pack("=IIQQ5Q", number, arch, 0, argument & (1 << 64) - 1, 0, 0, 0, 0, 0)
    instructions = [struct.unpack_from("=HBBI", program, place) for place in range(0, len(program), 8)]
    at = value = 0
    for _ in range(len(instructions)):
        code, true, false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x05:
                at += operand
            case 0x06:
                return operand
            case _:
                holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
                at += true if holds else false
    raise AssertionError("no return")


def number_of(name: str, column: int) -> int:
    return next(call.numbers[column] for call in TABLE if call.name == name and call.numbers[column] is not None)


@pytest.mark.parametrize(
    ("machine", "arch", "column"),
    [("x86_64", X86_64, 0), ("x86_64", I386, 1), ("aarch64", AARCH64, 2), ("aarch64", ARM, 3)],
)
def test_every_number_is_answered_as_the_table_says(machine: str, arch: int, column: int) -> None:
    listed = {call.numbers[column]: call for call in TABLE if call.numbers[column] is not None}
    special = {"clone", "clone3", "socket", "personality"}
    for number in range(520):
        got = outcome(PROGRAMS[machine], arch, number)
        call = listed.get(number)
        if call is None:
            assert got == (EPERM if number <= 471 else ENOSYS), number
        elif call.name not in special:
            allowed = not call.needs or bool(set(call.needs) & DEFAULT)
            assert got == (ALLOW if allowed else EPERM), call.name


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("clone", 0x11, ALLOW),
        ("clone", 0x003D_0F00, ALLOW),  # a thread
        ("clone", 0x1000_0011, EPERM),  # CLONE_NEWUSER
        ("clone", 0x0002_0011, EPERM),  # CLONE_NEWNS
        ("clone", 0x4000_0011, EPERM),  # CLONE_NEWNET
        ("clone3", 0, ENOSYS),
        ("socket", 1, ALLOW),
        ("socket", 2, ALLOW),
        ("socket", 38, EPERM),  # AF_ALG
        ("socket", 39, ALLOW),
        ("socket", 40, EPERM),  # AF_VSOCK
        ("socket", 41, ALLOW),
        ("socket", (1 << 32) + 40, EPERM),  # the kernel looks at the low half alone
        ("personality", 0, ALLOW),
        ("personality", 8, ALLOW),
        ("personality", 0x2_0000, ALLOW),
        ("personality", 0x2_0008, ALLOW),
        ("personality", 0xFFFF_FFFF, ALLOW),
        ("personality", 0x4_0000, EPERM),  # ADDR_NO_RANDOMIZE
    ],
)
@pytest.mark.parametrize(("machine", "arch", "column"), [("x86_64", X86_64, 0), ("aarch64", AARCH64, 2)])
def test_arguments_decide(machine: str, arch: int, column: int, name: str, argument: int, expected: int) -> None:
    assert outcome(PROGRAMS[machine], arch, number_of(name, column), argument) == expected


def test_foreign_architecture_is_killed() -> None:
    assert outcome(PROGRAMS["x86_64"], AARCH64, 0) == KILL
    assert outcome(PROGRAMS["aarch64"], X86_64, 0) == KILL


def test_x32_calls_do_not_exist() -> None:
    assert outcome(PROGRAMS["x86_64"], X86_64, 0x4000_0000) == ENOSYS


def test_capabilities_open_calls() -> None:
    mount = number_of("mount", 0)
    assert outcome(PROGRAMS["x86_64"], X86_64, mount) == EPERM
    admin = seccomp.compile_filter(DEFAULT | {"SYS_ADMIN"}, "x86_64", TABLE)
    assert outcome(admin, X86_64, mount) == ALLOW
    assert outcome(admin, X86_64, number_of("clone", 0), 0x1000_0011) == ALLOW
    assert outcome(admin, X86_64, number_of("clone3", 0)) == ALLOW


@pytest.mark.parametrize("name", ["keyctl", "add_key", "request_key", "socketcall", "kexec_load", "io_uring_setup"])
def test_call_is_in_no_table(name: str) -> None:
    assert name not in {call.name for call in TABLE}


def test_unknown_machine_has_no_filter() -> None:
    assert seccomp.compile_filter(DEFAULT, "riscv64", TABLE) == b""


def test_program_is_short_enough_for_the_kernel() -> None:
    assert len(PROGRAMS["x86_64"]) // 8 <= 4096  # BPF_MAXINSNS


def test_long_jumps_are_taken() -> None:
    ranges = [call._replace(numbers=(2 * place,)) for place, call in enumerate(TABLE)]
    calls = [seccomp.Call("socket", (), call.numbers) for call in ranges[:150]]
    wide = seccomp.compile_filter(DEFAULT, "x86_64", [call._replace(numbers=(*call.numbers, None)) for call in calls])
    assert [outcome(wide, X86_64, number, 40) for number in range(4)] == [EPERM] * 4
    assert [outcome(wide, X86_64, number, 2) for number in range(298)] == [ALLOW, EPERM] * 149


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Name:\tx\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n", False),
        ("Name:\tx\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\n", True),
        ("Name:\tx\nCapEff:\t00000000a82425fb\nNoNewPrivs:\t0\n", True),
        ("CapEff:\t0000000000000000\n", False),
    ],
)
def test_a_filter_is_installed_where_it_costs_nothing(status: str, expected: bool) -> None:
    assert seccomp.may_install(status) is expected
