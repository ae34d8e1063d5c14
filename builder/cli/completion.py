"""``pybuild completion``: what a shell completes, made of the program's own tables of commands and options.

Invariants: every command and every option is in it and nothing else; what follows an option with fixed values is one of
these, everything else is a file. The script is the same on every machine. Words are plain ASCII, so that nothing is to
be quoted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from builder.cli.commands import COMMANDS, GROUPS
from builder.cli.parser import ArgumentParser

_BASH = """\
# completion of pybuild for bash: source <(pybuild completion bash)
_pybuild() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command=build
    case ${{COMP_WORDS[1]-}} in
        {groups}) command="${{COMP_WORDS[1]}} ${{COMP_WORDS[2]-}}" ;;
        {commands}) command=${{COMP_WORDS[1]}} ;;
    esac
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{first}" -- "$current"))
    fi
    case $COMP_CWORD:${{COMP_WORDS[1]-}} in
{members}
    esac
    case "$command $previous" in
{values}
    esac
    if [ "${{current:0:1}}" = - ]; then
        case $command in
{options}
        esac
    else
        COMPREPLY+=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _pybuild pybuild
"""
_ZSH = """\
#compdef pybuild
# completion of pybuild for zsh: source <(pybuild completion zsh)
autoload -U +X compinit && compinit -u
autoload -U +X bashcompinit && bashcompinit
"""


def parser_completion() -> ArgumentParser:
    """The options of ``pybuild completion``."""
    parser = ArgumentParser(
        "pybuild completion", "Write what a shell needs to complete words.", "pybuild completion bash"
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="the shell to write it for")
    return parser


def command_completion(words: Sequence[str]) -> int:
    """The script is on stdout."""
    shell = parser_completion().read(words).shell
    sys.stdout.write({"bash": bash, "zsh": lambda: _ZSH + bash(), "fish": fish}[shell]())
    return 0


def bash() -> str:
    """The script for bash."""
    groups = sorted(GROUPS)
    single = [name for name in COMMANDS if " " not in name]
    members = [(group, [name.split(" ")[1] for name in COMMANDS if name.startswith(f"{group} ")]) for group in groups]
    return _BASH.format(
        groups="|".join(groups),
        commands="|".join(single),
        first=" ".join([*single, *groups]),
        members="\n".join(
            f'        2:{group}) COMPREPLY=($(compgen -W "{" ".join(names)}" -- "$current")); return ;;'
            for group, names in members
        ),
        values="\n".join(
            f'        "{name} {option}") COMPREPLY=($(compgen -W "{" ".join(values)}" -- "$current")); return ;;'
            for name in COMMANDS
            for option, values in _fixed_values(name)
        ),
        options="\n".join(
            f'            "{name}") COMPREPLY=($(compgen -W "{" ".join(_options(name))}" -- "$current")) ;;'
            for name in COMMANDS
        ),
    )


def fish() -> str:
    """The script for fish."""
    single = [name for name in COMMANDS if " " not in name]
    lines = [
        "# completion of pybuild for fish: pybuild completion fish | source",
        "function __pybuild_command",
        "    set -l words (commandline -opc)",
        '    switch "$words[2]"',
        f"        case {' '.join(sorted(GROUPS))}",
        '            echo "$words[2] $words[3]"',
        f"        case {' '.join(single)}",
        '            echo "$words[2]"',
        "        case '*'",
        "            echo build",
        "    end",
        "end",
    ]
    for name in COMMANDS:
        head, _, member = name.partition(" ")
        where = f"__fish_seen_subcommand_from {head}" if member else "__fish_use_subcommand"
        lines.append(f"complete -c pybuild -n '{where}' -a {member or head} -d {_quoted(COMMANDS[name][1])}")
    lines += [f"complete -c pybuild -n __fish_use_subcommand -a {group}" for group in sorted(GROUPS)]
    for name in COMMANDS:
        for action in _optional(name):
            names = [f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in action.option_strings]
            value = "" if action.nargs == 0 else " -r"
            values = "" if action.choices is None else f" -f -a '{' '.join(map(str, action.choices))}'"
            help_text = _quoted((action.help or "").partition(";")[0])
            condition = f"'test (__pybuild_command) = \"{name}\"'"
            lines.append(f"complete -c pybuild -n {condition} {' '.join(names)}{value}{values} -d {help_text}")
    return "\n".join(lines) + "\n"


def _optional(name: str) -> Iterator[argparse.Action]:
    from builder.cli.reference import parser_of

    return (action for action in parser_of(name).actions() if action.option_strings)


def _options(name: str) -> list[str]:
    return [option for action in _optional(name) for option in action.option_strings]


def _fixed_values(name: str) -> Iterator[tuple[str, list[str]]]:
    for action in _optional(name):
        for option in action.option_strings if action.choices is not None else ():
            yield option, [str(choice) for choice in action.choices or ()]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
