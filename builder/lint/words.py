"""Which words of an instruction are expanded when it is built (documents of COPY and ADD apart)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from builder.dockerfile.instructions import (
    Add,
    Arg,
    Copy,
    Env,
    Instruction,
    Label,
    Run,
    StopSignal,
    User,
    Volume,
    Workdir,
)


def expanded_words(instruction: Instruction, build_args: Mapping[str, str]) -> Iterable[str]:
    """Return the words, in order; the default of an argument that is given from outside is none of them."""
    match instruction:
        case Env() | Label():
            return [word for pair in instruction.pairs for word in (pair.key, pair.value)]
        case Copy() | Add():
            words = [*instruction.sources, instruction.destination, instruction.chown, instruction.chmod]
            return [*words, instruction.checksum] if isinstance(instruction, Add) else words
        case Run(mounts=words) | Volume(paths=words):
            return words
        case Workdir(path=word) | User(user=word) | StopSignal(signal=word):
            return (word,)
        case Arg():
            return [default or "" for name, default in instruction.declarations if name not in build_args]
        case _:
            return ()
