"""The program ``git``, run for one remote: what it finds around it, how it is ended, what its complaints mean.

Invariants: what the user's own configuration says has no say; nothing is asked on a terminal; only the protocols of the
remote's kind are spoken, whatever submodules say; credentials are said to the remote's own host alone and are in no
message.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import FetchError
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.http import shown

_LONGEST_MESSAGE = 400
_SETTINGS = (
    ("core.autocrlf", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.logAllRefUpdates", "false"),
    ("core.symlinks", "true"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("init.defaultBranch", "main"),
    ("safe.directory", "*"),
    ("protocol.version", "2"),
)


def shown_remote(remote: str) -> str:
    """``remote`` for people, without credentials."""
    return shown(remote) if "://" in remote else remote


def without_credentials(remote: str) -> str:
    """``remote`` as it may stand in an image."""
    if scheme_of(remote) not in {"http", "https"}:
        return remote
    parts = urlsplit(remote)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def scheme_of(remote: str) -> str:
    """The scheme of ``remote``: ``ssh`` for ``user@host:path``, ``file`` for a path."""
    return remote.partition("://")[0] if "://" in remote else "file" if remote.startswith("/") else "ssh"


class GitProgram:
    """Runs the ``git`` program for one remote."""

    def __init__(self, access: Access, remote: str, cancel: Cancellation) -> None:
        self._remote = remote
        self._cancel = cancel
        self._environment = _environment(access, remote)

    def run(self, *arguments: str, directory: Path | None = None, local: bool = False) -> str:
        """What ``git arguments`` printed; ``local``: it speaks to a repository of this store alone.

        Raises FetchError, Interrupted.
        """
        command = ["git", *(() if directory is None else ("-C", str(directory))), *arguments]
        try:
            process = subprocess.Popen(
                command,
                env={**self._environment, "GIT_ALLOW_PROTOCOL": "file"} if local else self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError as error:
            message = f"git repository {shown_remote(self._remote)}: there is no program 'git' on this machine"
            raise FetchError(message, hints=("the package is called git",)) from error
        with process, self._cancel.breaking(lambda: _kill(process)):
            try:
                output, errors = process.communicate()
            except BaseException:
                _kill(process)
                raise
        self._cancel.check()
        if process.returncode:
            raise _failed(self._remote, errors)
        return output.decode("utf-8", "surrogateescape")

    def succeeds(self, *arguments: str, directory: Path) -> bool:
        """Whether ``git arguments`` ends well."""
        try:
            self.run(*arguments, directory=directory)
        except FetchError:
            return False
        return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The program and those it started are gone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


_SSH_COMPLAINTS = (
    (
        b"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host has another key than the known one",
        "if that is right, ssh-keygen -R HOST forgets the old one",
    ),
    (
        b"Host key verification failed",
        "the key of the host is not known",
        "ssh-keyscan HOST >>~/.ssh/known_hosts makes it known: compare it with what the host's owner publishes",
    ),
    (b"Permission denied (", "no key of the agent is accepted", "ssh-add -l lists the keys of your agent"),
)
"""What ssh says before git's last line, which only says that nothing could be read; what it means; what may help."""


def _failed(remote: str, errors: bytes) -> FetchError:
    name = f"git repository {shown_remote(remote)}"
    if scheme_of(remote) == "ssh":
        for complaint, meaning, hint in _SSH_COMPLAINTS:
            if complaint in errors:
                return FetchError(f"{name}: {meaning}", hints=(hint,))
    return FetchError(f"{name}: {_reason(errors)}")


def _reason(errors: bytes) -> str:
    """The line of git's complaint that says most."""
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    for prefix in ("fatal: ", "error: ", "ERROR: ", "remote: "):
        for line in lines:
            if line.startswith(prefix):
                text = "".join(character for character in line.removeprefix(prefix) if character.isprintable())
                return text[:_LONGEST_MESSAGE]
    return lines[-1][:_LONGEST_MESSAGE] if lines else "git failed"


def _environment(access: Access, remote: str) -> dict[str, str]:
    """What git finds around it: the way to hosts, and none of the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SSH_"))}
    settings = [*_SETTINGS, *_authorization(access, remote)]
    local = scheme_of(remote) == "file"
    environment = {
        **kept,
        **_authorities(os.environ),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "https:http:git:ssh" + (":file" if local else ""),
        "GIT_SSH_COMMAND": _ssh_command(os.environ),
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (name, value) in enumerate(settings):
        environment[f"GIT_CONFIG_KEY_{number}"] = name
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    if access.agent is not None:
        environment["SSH_AUTH_SOCK"] = access.agent
    return environment


def _ssh_command(environment: Mapping[str, str]) -> str:
    """The program with the agent's keys alone and the hosts of the user's home, whoever this process is."""
    command = "ssh -F none -o BatchMode=yes -o IdentityFile=none"
    home = environment.get("HOME", "")
    if not home or '"' in home:
        return command
    files = " ".join(f'"{home}/.ssh/{name}"' for name in ("known_hosts", "known_hosts2"))
    return f"{command} -o {shlex.quote(f'UserKnownHostsFile={files}')}"


def _authorization(access: Access, remote: str) -> list[tuple[str, str]]:
    """The setting that makes git say who asks, to the remote's own host."""
    parts = urlsplit(remote)
    header = access.for_repository(remote) if parts.scheme in {"http", "https"} else None
    if header is None:
        return []
    host = parts.netloc.rpartition("@")[2]
    return [(f"http.{parts.scheme}://{host}/.extraheader", f"Authorization: {header}")]


def _authorities(environment: Mapping[str, str]) -> dict[str, str]:
    """The certificates that git believes: what the user told git, else what he told everybody."""
    told = {name: environment[name] for name in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH") if name in environment}
    if not told and environment.get("SSL_CERT_FILE"):
        told["GIT_SSL_CAINFO"] = environment["SSL_CERT_FILE"]
    return told
