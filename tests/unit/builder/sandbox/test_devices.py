"""The device rules of both versions, on every access that matters: they mean the same."""

from __future__ import annotations

import fnmatch
import struct

import pytest

from builder.sandbox.devices import program_v2, rules_v1

MAKE, READ, WRITE = 1, 2, 4
BLOCK, CHARACTER = 1, 2
WORDS = {"m": MAKE, "r": READ, "w": WRITE}


def allowed_v1(kind: int, major: int, minor: int, access: int) -> bool:
    """cgroup-v1/devices.rst: every exception that fits the device and covers the access."""
    name = "b" if kind == BLOCK else "c"
    for file, line in rules_v1()[1:]:
        assert file == "devices.allow"
        rule_kind, numbers, words = line.split()
        fits = rule_kind == name and fnmatch.fnmatch(f"{major}:{minor}", numbers)
        if fits and not access & ~sum(WORDS[word] for word in words):
            return True
    return False


def allowed_v2(kind: int, major: int, minor: int, access: int) -> bool:
    """The program on a small machine (linux/bpf.h)."""
    context = struct.pack("=III", access << 16 | kind, major, minor)
    program = program_v2()
    code = [struct.unpack_from("=BBhi", program, at) for at in range(0, len(program), 8)]
    registers, at = [0] * 11, 0
    while True:
        operation, operands, offset, number = code[at]
        destination, source = operands & 0xF, operands >> 4
        at += 1
        match operation:
            case 0x61:
                (registers[destination],) = struct.unpack_from("=I", context, offset)
            case 0xBF:
                registers[destination] = registers[source]
            case 0xB7:
                registers[destination] = number
            case 0x77:
                registers[destination] >>= number
            case 0x57:
                registers[destination] &= number
            case 0x55:
                at += offset if registers[destination] != number else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(hex(operation))


@pytest.mark.parametrize("access", range(1, 8))
@pytest.mark.parametrize("kind", [BLOCK, CHARACTER])
def test_both_versions_mean_the_same(kind: int, access: int) -> None:
    for major in (0, 1, 5, 8, 10, 136, 254):
        for minor in range(12):
            v1, v2 = (allowed(kind, major, minor, access) for allowed in (allowed_v1, allowed_v2))
            assert v1 == v2, (kind, major, minor, access)


def test_first_everything_is_denied() -> None:
    assert rules_v1()[0] == ("devices.deny", "a")


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "expected"),
    [
        (CHARACTER, 1, 3, READ | WRITE, True),
        (CHARACTER, 1, 1, READ, False),  # /dev/mem
        (CHARACTER, 10, 229, READ, False),  # /dev/fuse
        (CHARACTER, 136, 7, READ | WRITE, True),
        (BLOCK, 254, 0, READ, False),
        (BLOCK, 254, 0, MAKE, True),
        (BLOCK, 1, 3, READ, False),
    ],
)
def test_devices_of_a_container(kind: int, major: int, minor: int, access: int, expected: bool) -> None:
    assert allowed_v2(kind, major, minor, access) is expected
