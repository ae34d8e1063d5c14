"""What is trusted of one registry, and what is shown to it: directories of certificates as docker and podman keep them.

::

    <certs.d>/registry.lan:5000/ca.crt        an authority, trusted beside the system's with this registry alone
                                client.cert   a certificate of ours, shown when the registry asks for one
                                client.key    its key

The first directory of ``RegistrySettings.certificates`` that has one for the host counts, nothing is put together from
two; ``own_certificates`` counts in their place. Files with other endings mean nothing. Sources: dockerd's "Verify
repository client with certificates", containers-certs.d(5).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from layers.registry.errors import TlsError
from layers.registry.settings import RegistrySettings
from unionfs.namedtuple import NamedTuple


class HostCertificates(NamedTuple):
    """Files in PEM: authorities, and pairs of a certificate and its key."""

    authorities: tuple[Path, ...] = ()
    pairs: tuple[tuple[Path, Path], ...] = ()


def find(host: str, settings: RegistrySettings, subject: str) -> HostCertificates:
    """What the settings have for ``host`` (``name[:port]``); nothing when no directory has something.

    Raises:
        TlsError: a directory cannot be read, or a certificate or a key stands alone.
    """
    if settings.own_certificates is not None:
        return _read(settings.own_certificates, subject)
    for directory in settings.certificates:
        try:
            return _read(directory / host, subject)
        except _MissingError:
            continue
    return HostCertificates()


class _MissingError(TlsError):
    """There is no such directory."""


def _read(directory: Path, subject: str) -> HostCertificates:
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _MissingError(subject, f'certificates "{directory}": no such directory') from error
    except OSError as error:
        raise TlsError(subject, f'certificates "{directory}": {(error.strerror or "").lower()}') from error
    pairs: list[tuple[Path, Path]] = []
    for name in names:
        stem, ending = os.path.splitext(name)
        other = {".cert": f"{stem}.key", ".key": f"{stem}.cert"}.get(ending)
        if other is not None and other not in names:
            raise TlsError(subject, f'certificates "{directory}": "{name}" needs "{other}" beside it')
        if ending == ".cert":
            pairs.append((directory / name, directory / f"{stem}.key"))
    return HostCertificates(tuple(directory / name for name in names if name.endswith(".crt")), tuple(pairs))


def trusting_context(
    files: tuple[Path, ...], certificates: HostCertificates, subject: str, *, verified: bool = True
) -> ssl.SSLContext:
    """A TLS context that trusts the system's authorities (``SSL_CERT_FILE`` is honoured), ``files`` and the host's.

    The host's certificates of ours are shown where they are asked for. ``verified`` says whether the peer must have a
    certificate to be trusted.

    Raises:
        TlsError: a file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    at = Path()
    try:
        for at in (*files, *certificates.authorities):
            context.load_verify_locations(cafile=at)
        for at, key in certificates.pairs:
            # without a question for a password, which nobody would answer
            context.load_cert_chain(at, key, password="")
    except ssl.SSLError as error:
        raise TlsError(subject, f'certificate file "{at}": {_reason(error)}') from error
    except OSError as error:
        raise TlsError(subject, f'certificate file "{at}": {(error.strerror or str(error)).lower()}') from error
    return context


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "it holds no certificate").lower().replace("_", " ")
