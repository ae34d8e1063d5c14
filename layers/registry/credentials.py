"""Credentials for registries, as docker and podman keep them.

Where they are sought, the first file with something for the registry wins:

1. the files in ``RegistrySettings.auth_files``; when there are any, nothing else is read;
2. ``$REGISTRY_AUTH_FILE``; when set, nothing else is read;
3. ``$DOCKER_CONFIG/config.json``, or ``~/.docker/config.json``;
4. ``$XDG_RUNTIME_DIR/containers/auth.json``;
5. ``$XDG_CONFIG_HOME/containers/auth.json``, or ``~/.config/containers/auth.json``.

Within a file: ``credHelpers`` for the registry, ``auths`` from the most particular key (``host/path``, as podman
writes it) to the host, ``credsStore``. A helper that is missing or fails is a remark, not an error: public images need
no credentials. Writing goes to the first file of the list, or to the helper named there.

Invariants: secrets never appear in a repr, a message or an argument list; a file is replaced as a whole, mode 0600.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from layers.reference import DEFAULT_REGISTRY
from layers.registry.errors import CredentialsError, printable
from layers.registry.settings import RegistrySettings

_EVERYTHING = "all registries"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = (DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105 - the user name by which helpers mark an identity token, no secret
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who we are: user and password, or an identity token, or a ready bearer token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)


@dataclass(frozen=True, slots=True)
class Found:
    """Credentials and the place they came from; ``remarks`` tell what could not be asked."""

    credentials: Credentials | None
    source: str = ""
    remarks: tuple[str, ...] = ()


def auth_files(settings: RegistrySettings, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that may hold credentials, in the order they are asked."""
    if settings.auth_files:
        return settings.auth_files
    if environ.get("REGISTRY_AUTH_FILE"):
        return (Path(environ["REGISTRY_AUTH_FILE"]),)
    home = Path(environ.get("HOME") or "/")
    files = [Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"]
    if environ.get("XDG_RUNTIME_DIR"):
        files.append(Path(environ["XDG_RUNTIME_DIR"]) / "containers/auth.json")
    files.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json")
    return tuple(files)


def find(registry: str, repository: str, settings: RegistrySettings, environ: Mapping[str, str] | None = None) -> Found:
    """The credentials for a repository of a registry.

    Raises:
        CredentialsError: a file is there and cannot be read or understood.
    """
    remarks: list[str] = []
    for path in auth_files(settings, os.environ if environ is None else environ):
        config = _read(path, registry)
        credentials = _find_in(config, registry, repository, settings.patience.helper_seconds, remarks)
        if credentials:
            return Found(credentials, str(path), tuple(remarks))
    return Found(None, remarks=tuple(remarks))


def store(
    registry: str, credentials: Credentials, settings: RegistrySettings, environ: Mapping[str, str] | None = None
) -> str:
    """The credentials are kept where the next `find` sees them; the place, for people. Raises CredentialsError."""
    path = auth_files(settings, os.environ if environ is None else environ)[0]
    config = _read(path, registry)
    helper = _helper_for(config, registry)
    key = _written_key(registry)
    if helper:
        secret = credentials.identity_token or credentials.password
        user = _TOKEN_USER if credentials.identity_token else credentials.username
        payload = json.dumps({"ServerURL": key, "Username": user, "Secret": secret})
        _call_helper(helper, "store", payload, registry, settings.patience.helper_seconds)
        return f"docker-credential-{helper}"
    auths = _section(config, "auths")
    for old in list(_matching(auths, registry)):
        del auths[old]
    auths[key] = _written_entry(credentials)
    config["auths"] = auths
    _write(path, config, registry)
    return str(path)


def erase(registry: str, settings: RegistrySettings, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """No file and no helper of the list holds credentials for the registry; the result says where some were.

    Raises:
        CredentialsError: a file cannot be read or written, a helper fails.
    """
    places: list[str] = []
    for path in auth_files(settings, os.environ if environ is None else environ):
        config = _read(path, registry)
        helper = _helper_for(config, registry)
        if helper and _erase_in_helper(helper, registry, settings.patience.helper_seconds):
            places.append(f"docker-credential-{helper}")
        auths = _section(config, "auths")
        old = list(_matching(auths, registry))
        if old:
            config["auths"] = {key: value for key, value in auths.items() if key not in old}
            _write(path, config, registry)
            places.append(str(path))
    return tuple(places)


def erase_all(settings: RegistrySettings, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """No file of the list, and no helper that one names, holds credentials; the result says where some were.

    A helper that keeps those of single registries is asked to forget these alone.

    Raises:
        CredentialsError: a file cannot be read or written, a helper fails.
    """
    seconds = settings.patience.helper_seconds
    places: list[str] = []
    for path in auth_files(settings, os.environ if environ is None else environ):
        config = _read(path, _EVERYTHING)
        due = [(helper, key) for key, helper in _section(config, "credHelpers").items() if isinstance(helper, str)]
        shared = config.get("credsStore")
        if isinstance(shared, str) and shared:
            due += [(shared, key) for key in _list_helper(shared, seconds)]
        places += [f"docker-credential-{helper}" for helper, key in due if _erase_in_helper(helper, key, seconds)]
        if _section(config, "auths"):
            config["auths"] = {}
            _write(path, config, _EVERYTHING)
            places.append(str(path))
    return tuple(dict.fromkeys(places))


# -- one file ---------------------------------------------------------------------------------------------------------
def _find_in(
    config: Mapping[str, Any], registry: str, repository: str, helper_seconds: float, remarks: list[str]
) -> Credentials | None:
    helper = _section(config, "credHelpers").get(_helper_key(config, registry))
    if isinstance(helper, str):
        credentials = _ask_helper(helper, registry, helper_seconds, remarks)
        if credentials:
            return credentials
    auths = _section(config, "auths")
    for key in _keys(auths, registry, repository):
        credentials = _parse_entry(auths[key], registry)
        if credentials:
            return credentials
    shared = config.get("credsStore")
    return _ask_helper(shared, registry, helper_seconds, remarks) if isinstance(shared, str) and shared else None


def _helper_for(config: Mapping[str, Any], registry: str) -> str:
    named = _section(config, "credHelpers").get(_helper_key(config, registry)) or config.get("credsStore")
    return named if isinstance(named, str) else ""


def _helper_key(config: Mapping[str, Any], registry: str) -> str:
    return next(_matching(_section(config, "credHelpers"), registry), registry)


def _keys(auths: Mapping[str, Any], registry: str, repository: str) -> Iterator[str]:
    """Keys that apply, the most particular first: ``host/a/b``, ``host/a``, then all spellings of the host."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        key = "/".join([registry, *parts[:count]])
        if key in auths:
            yield key
    yield from _matching(auths, registry)


def _matching(entries: Mapping[str, Any], registry: str) -> Iterator[str]:
    """Keys that mean the registry as a whole; docker writes ``https://index.docker.io/v1/`` and the like."""
    wanted = _HUB_HOSTS if registry == DEFAULT_REGISTRY else (registry,)
    yield from [key for key in wanted if key in entries]
    for key in entries:
        host = key.removeprefix("https://").removeprefix("http://")
        for version in ("/v1/", "/v2/", "/v1", "/v2", "/"):
            host = host.removesuffix(version)
        if host in wanted and key not in wanted:
            yield key


def _written_key(registry: str) -> str:
    return _HUB_KEY if registry == DEFAULT_REGISTRY else registry


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}


def _parse_entry(entry: object, registry: str) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    fields = cast("dict[str, Any]", entry)
    texts = {key: value for key, value in fields.items() if isinstance(value, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            username, _, password = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise CredentialsError(registry, "the stored credentials are not base64 of user:password") from error
    password = password.rstrip("\0")
    return Credentials(username, password, texts.get("identitytoken", ""), texts.get("registrytoken", "")) or None


def _written_entry(credentials: Credentials) -> dict[str, str]:
    entry = {"auth": base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()}
    if credentials.identity_token:
        entry = {
            "auth": base64.b64encode(f"{credentials.username}:".encode()).decode(),
            "identitytoken": credentials.identity_token,
        }
    return entry


def _read(path: Path, registry: str) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CredentialsError(registry, f'credentials file "{path}": {error.strerror}') from error
    try:
        config: object = json.loads(text or b"{}")
    except ValueError as error:
        # not the message of the parser: it quotes what it could not read
        raise CredentialsError(registry, f'credentials file "{path}" is not JSON') from error
    if not isinstance(config, dict):
        raise CredentialsError(registry, f'credentials file "{path}" is no JSON object')
    return cast("dict[str, Any]", config)


def _write(path: Path, config: Mapping[str, Any], registry: str) -> None:
    """The file has this content and mode 0600; a symbolic link stays one (``rename(2)`` of its target)."""
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(config, file, indent="\t")
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise CredentialsError(registry, f'credentials file "{target}": {error.strerror}') from error


# -- helper programs (docker-credential-helpers, README) --------------------------------------------------------------
def _ask_helper(helper: str, registry: str, seconds: float, remarks: list[str]) -> Credentials | None:
    try:
        answer = _call_helper(helper, "get", _written_key(registry), registry, seconds)
    except CredentialsError as error:
        if _NOT_FOUND not in error.problem:
            remarks.append(error.problem)
        return None
    try:
        fields: object = json.loads(answer)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        remarks.append(f"docker-credential-{helper} did not answer with a JSON object")
        return None
    texts = cast("dict[str, Any]", fields)
    user, secret = str(texts.get("Username", "")), str(texts.get("Secret", ""))
    return (Credentials(identity_token=secret) if user == _TOKEN_USER else Credentials(user, secret)) or None


def _list_helper(helper: str, seconds: float) -> tuple[str, ...]:
    """The keys that the helper has credentials for."""
    try:
        keys: object = json.loads(_call_helper(helper, "list", "", _EVERYTHING, seconds) or "{}")
    except ValueError:
        keys = None
    if not isinstance(keys, dict):
        raise CredentialsError(_EVERYTHING, f"docker-credential-{helper} did not answer with a JSON object")
    return tuple(cast("dict[str, Any]", keys))


def _erase_in_helper(helper: str, registry: str, seconds: float) -> bool:
    try:
        _call_helper(helper, "erase", _written_key(registry), registry, seconds)
    except CredentialsError as error:
        if _NOT_FOUND not in error.problem:
            raise
        return False
    return True


def _call_helper(helper: str, action: str, text: str, registry: str, seconds: float) -> str:
    """What the helper printed; secrets go through its standard input alone. Raises CredentialsError."""
    program = f"docker-credential-{helper}"
    if not helper or "/" in helper:
        raise CredentialsError(registry, f'"{printable(program)}" is no name of a credential helper')
    try:
        done = subprocess.run(
            [program, action], input=text, capture_output=True, text=True, check=False, timeout=seconds
        )
    except FileNotFoundError as error:
        raise CredentialsError(registry, f"credential helper {program} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CredentialsError(registry, f"credential helper {program} did not answer in {seconds:g} s") from error
    except OSError as error:
        raise CredentialsError(registry, f"credential helper {program}: {error.strerror}") from error
    if done.returncode:
        said = printable(done.stdout or done.stderr)
        if action == "store":  # what it says may repeat what it was given
            said = f"status {done.returncode}"
        raise CredentialsError(registry, f"credential helper {program} failed: {said or done.returncode}")
    return done.stdout
