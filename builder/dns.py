"""How names are looked up in a step. A value on its own, since the sandbox needs it and no other option."""

from __future__ import annotations

from unionfs.namedtuple import NamedTuple

HOST_GATEWAY = "host-gateway"
"""What stands for the address of the host, where an address of ``extra_hosts`` is expected."""


class Dns(NamedTuple):
    """How names are looked up; what is empty is as on the host. A ``search`` of ``.`` alone is none."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
