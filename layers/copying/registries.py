"""A repository of a registry as what images are copied from and to.

Invariants: a blob is compared with its digest before its last block is handed on; between repositories of one registry
it is mounted where the registry lets us, else it travels through this process, one block at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import TracebackType
from typing import Self

from layers.copying.places import Checked, Origin
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import ContentMismatchError, FormatError
from layers.pieces import Pieces
from layers.platform import Platform
from layers.reference import Reference
from layers.registry import referrers
from layers.registry.client import RegistryClient
from layers.registry.errors import ContentError, ProtocolError, RegistryError, TransferCancelledError
from layers.registry.progress import Reporter
from layers.registry.pulling import fetch_tree
from layers.registry.pushing import names_for, put_manifests
from layers.registry.settings import RegistrySettings, api_host, hosts_for_pull
from layers.registry.uploads import Content
from layers.registry.workers import Transfer
from layers.tree import Node, read_tree


class _Repository:
    """A context manager: the conversations with one repository."""

    def __init__(
        self, reference: Reference, settings: RegistrySettings, cancel: threading.Event, *, push: bool
    ) -> None:
        self.reference = reference
        self.transfer = Transfer(reference.canonical, reference.repository, settings, cancel, push=push)
        self._host = api_host(reference.registry)

    def __enter__(self) -> Self:
        self.transfer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.transfer.__exit__(kind, value, trace)

    def client(self) -> RegistryClient:
        """The client of this thread."""
        return self.transfer.client(self._host)


class RegistryOrigin(_Repository):
    """See `Origin`."""

    def __init__(self, reference: Reference, settings: RegistrySettings, cancel: threading.Event) -> None:
        super().__init__(reference, settings, cancel, push=False)
        self._hosts = hosts_for_pull(reference.registry, settings)

    def tree(self, platform: Platform | None) -> Node:
        """See `Origin`."""
        tree, host = self.transfer.call(lambda: fetch_tree(self.transfer, self.reference, platform))
        self._hosts = tuple(dict.fromkeys((host, *self._hosts)))
        return tree

    def below(self, descriptor: Descriptor) -> Node:
        """See `Origin`."""
        subject = self.transfer.subject
        try:
            return self.transfer.call(
                lambda: read_tree(descriptor, lambda wanted: self.client().manifest(wanted.digest).raw)
            )
        except FormatError as error:
            raise ProtocolError(subject, str(error)) from error
        except ContentMismatchError as error:
            raise ContentError(subject, str(error)) from error

    def open(self, blob: Descriptor, offset: int) -> Content:
        """See `Origin`."""
        return Pieces(self._read(blob, offset))

    def _read(self, blob: Descriptor, offset: int) -> Generator[bytes]:
        """The blob from the first host that delivers it; what one of them began the next one goes on with."""
        for number, host in enumerate(self._hosts, 1):
            try:
                for block in self.transfer.client(host).read_blob(blob, start=offset):
                    offset += len(block)
                    yield block
            except TransferCancelledError:
                raise
            except RegistryError:
                if number == len(self._hosts):
                    raise
            else:
                return

    def repositories(self, registry: str, blob: Digest) -> tuple[str, ...]:
        """See `Origin`."""
        del blob
        return (self.reference.repository,) if registry == self.reference.registry else ()

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """See `Origin`."""
        return self.transfer.call(lambda: referrers.find(self.client(), digest))


class RegistryTarget(_Repository):
    """See `Target`."""

    def __init__(self, reference: Reference, settings: RegistrySettings, cancel: threading.Event) -> None:
        super().__init__(reference, settings, cancel, push=True)

    def take(self, blob: Descriptor, origin: Origin, reporter: Reporter) -> None:
        """See `Target`."""
        client = self.client()
        if client.has_blob(blob):
            reporter.state(blob, "exists")
            return
        if client.mount_blob(blob, origin.repositories(self.reference.registry, blob.digest)):
            reporter.state(blob, "mounted")
            return
        report = reporter.state(blob, "transferring")
        try:
            client.send_blob(blob, lambda offset: Checked(origin.open(blob, offset), blob, offset), report)
        except ContentMismatchError as error:
            raise ContentError(self.transfer.subject, str(error)) from error
        reporter.state(blob, "done")

    def keep(self, tree: Node) -> None:
        """See `Target`."""
        put_manifests(self.transfer, self.client, tree, (str(tree.found.digest),))

    def finish(self, tree: Node) -> None:
        """See `Target`."""
        put_manifests(self.transfer, self.client, tree, names_for(self.reference, (), tree.found.digest))
