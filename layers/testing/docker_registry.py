"""The registry of the CNCF distribution (Debian's package docker-registry) on a free port of loopback.

Invariants: everything it writes is in the directory it was given; it ends with the block, by its own process id.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from layers.testing.tokens import ISSUER, SERVICE, Signer
from unionfs.namedtuple import NamedTuple

PROGRAM = "docker-registry"
_START_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_SALT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Certificates(NamedTuple):
    """Files in PEM: an authority of our own, and a server it vouches for."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(directory: Path, host: str = "127.0.0.1") -> Certificates:
    """Fresh certificates for ``host`` and localhost are in the directory, made by openssl(1)."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    ca_key, request, extensions = directory / "ca.key", directory / "server.csr", directory / "extensions"
    kind = "IP" if host.replace(".", "").isdigit() else "DNS"
    extensions.write_text(
        f"subjectAltName=DNS:localhost,{kind}:{host}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(
        *("req", "-x509", *new_key, "-keyout", str(ca_key), "-out", str(made.authority)),
        *("-subj", "/CN=test authority", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    _openssl("req", *new_key, "-keyout", str(made.key), "-out", str(request), "-subj", f"/CN={host}")
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(made.authority), "-CAkey", str(ca_key), "-CAcreateserial"),
        *("-out", str(made.certificate), "-days", "2", "-extfile", str(extensions)),
    )
    return made


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class DockerRegistry:
    """A running registry; a context manager.

    ``users`` (name to password) asks for basic authentication, ``tokens`` for tokens of a server (its address and who
    signs them), ``clients`` for a certificate that this authority vouches for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: Mapping[str, str] | None = None,
        certificates: Certificates | None = None,
        tokens: tuple[str, Signer] | None = None,
        clients: Path | None = None,
    ) -> None:
        self.directory = directory
        self.port = 0
        self._users = users
        self._certificates = certificates
        self._tokens = tokens
        self._clients = clients
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``, as it begins the name of an image."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """It answers; on the port it had before, if any."""
        self.port = self.port or free_port()
        config = self.directory / "config.json"  # JSON is YAML
        config.write_text(json.dumps(self._config(), indent=1))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ
            )
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """It has ended. Idempotent."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _config(self) -> dict[str, object]:
        http: dict[str, object] = {"addr": self.host, "secret": secrets.token_hex(16)}
        if self._certificates is not None:
            tls: dict[str, object] = {"certificate": str(self._certificates.certificate)}
            tls["key"] = str(self._certificates.key)
            if self._clients is not None:
                tls["clientcas"] = [str(self._clients)]
            http["tls"] = tls
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if self._users is not None:
            path = self.directory / "htpasswd"
            path.write_text("".join(f"{user}:{_bcrypt(password)}\n" for user, password in self._users.items()))
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(path)}}
        if self._tokens is not None:
            realm, signer = self._tokens
            token = {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(signer.certificate)}
            config["auth"] = {"token": token}
        return config

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as plain:
                    if self._certificates is None:
                        return
                    context = ssl.create_default_context(cafile=self._certificates.authority)
                    context.check_hostname = False  # some are to be refused by those who look
                    if self._clients is not None:
                        # it wants to see one from us too
                        context.load_cert_chain(self._certificates.certificate, self._certificates.key)
                    with context.wrap_socket(plain):
                        return
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text(errors="replace")
                    raise RuntimeError(f"{PROGRAM} did not start: {error}\n{log[-2000:]}") from error
            time.sleep(_LOOK_SECONDS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _bcrypt(password: str) -> str:
    """The password as htpasswd(1) -B keeps it; perl's crypt(3) knows the method on Debian."""
    salt = "$2y$05$" + "".join(secrets.choice(_SALT) for _ in range(22))
    script = "my $p = <STDIN>; chomp $p; print crypt($p, $ARGV[0])"
    done = subprocess.run(["perl", "-e", script, salt], input=password.encode(), stdout=subprocess.PIPE, check=True)
    hashed = done.stdout.decode()
    if not hashed.startswith("$2y$"):
        raise RuntimeError("crypt(3) does not know bcrypt here")
    return hashed
