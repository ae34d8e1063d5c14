"""What goes wrong between this machine and a registry.

::

    RegistryError
    ├── ManifestUnknownError       no such tag, digest or repository
    ├── BlobUnknownError           a manifest names content that the registry does not hold
    ├── PlatformMismatchError      the image exists, but not for the platform asked for
    ├── UnauthorizedError          who we are is not known, or not believed (401)
    ├── DeniedError                we are known and may not do this (403)
    ├── UnavailableError           429 or 5xx, still after the tries that are due
    ├── ConnectionFailedError      no conversation came about, or it broke
    │   ├── NameResolutionError
    │   ├── TlsError
    │   └── RegistryTimeoutError
    ├── ContentError               bytes that are not what was promised: digest, length
    ├── ProtocolError              an answer that the distribution specification does not allow
    ├── CredentialsError           a file or helper with credentials that cannot be used
    └── TransferCancelledError     the caller asked to stop

Messages are one line, ``NAME: what happened``: the subject is the image as the caller named it, in full. Nothing
secret is ever part of one: no header, no query of a URL, no password; text from outside is cut and made printable.
"""

from __future__ import annotations

from layers.errors import LayersError

_LONGEST_FOREIGN_TEXT = 200


class RegistryError(LayersError):
    """Something about a registry failed. ``subject`` is the image or the registry, ``problem`` what happened."""

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(f"{subject}: {problem}")
        self.subject = subject
        self.problem = problem


class ManifestUnknownError(RegistryError):
    """The registry has no such tag, digest or repository."""


class BlobUnknownError(RegistryError):
    """The registry does not hold content that a manifest names."""


class PlatformMismatchError(RegistryError):
    """The image exists, but not for the platform asked for."""


class UnauthorizedError(RegistryError):
    """The registry wants to know who we are, and does not believe what we said, if anything."""


class DeniedError(RegistryError):
    """The registry knows who we are and refuses."""


class UnavailableError(RegistryError):
    """The registry is busy or broken: 429 or 5xx after all tries."""


class ConnectionFailedError(RegistryError):
    """No connection, or one that broke and could not be taken up again."""


class NameResolutionError(ConnectionFailedError):
    """The host's name leads to no address."""


class TlsError(ConnectionFailedError):
    """The certificate or the handshake is not acceptable."""


class RegistryTimeoutError(ConnectionFailedError):
    """The host did not answer in time."""


class ContentError(RegistryError):
    """Bytes that are not what was promised."""


class ProtocolError(RegistryError):
    """An answer that makes no sense."""


class CredentialsError(RegistryError):
    """A file or a helper program with credentials that cannot be used."""


class TransferCancelledError(RegistryError):
    """The caller asked to stop."""


def printable(text: str) -> str:
    """Text from outside, fit for a message: one line, printable, not long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _LONGEST_FOREIGN_TEXT]).split())
    return line if len(line) <= _LONGEST_FOREIGN_TEXT else line[:_LONGEST_FOREIGN_TEXT] + "…"
