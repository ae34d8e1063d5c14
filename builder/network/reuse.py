"""Network namespaces that steps left as they found them, for the steps that come.

Making one with its devices, and the kernel's taking it down, cost more processor time than all else of a short step's
network. Most steps send nothing: what the kernel counted says so, and then nothing of theirs can be left there, no
connection that still keeps its port (TIME_WAIT), no route learned. Configuring one takes a capability that steps do
not have; who gives it to a step has its namespace dropped.

Invariants: a namespace is used by one step at a time, and again only after the last process in it has ended, and when
nothing was ever sent in it but what the kernel sends of itself; its station stays with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from builder.network.hub import OWN_NAMESPACE, Station
from unionfs.namedtuple import NamedTuple

_MOST = 4
_READ_BYTES = 1 << 16
_COUNTED, _COUNTED_OF_SIX = "/proc/self/net/snmp", "/proc/self/net/snmp6"


class OwnNetwork(NamedTuple):
    """A namespace, with its loopback device up and ``station`` as its way out, if it has one."""

    namespace: int
    station: Station | None


class Witness:
    """What is counted in ``namespace``, which the caller is in now, whatever becomes of the caller's root."""

    def __init__(self) -> None:
        self.namespace = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        self._four = os.open(_COUNTED, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._six: int | None = os.open(_COUNTED_OF_SIX, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # a kernel without IPv6
            self._six = None

    @classmethod
    def of_this_process(cls) -> Witness | None:
        """One for the namespace that the caller is in now; None where /proc does not show what is counted."""
        try:
            return cls()
        except OSError:
            return None

    def has_seen_nothing(self) -> bool:
        """Whether nobody in the namespace has sent anything since it was made."""
        four = os.pread(self._four, _READ_BYTES, 0)
        six = b"" if self._six is None else os.pread(self._six, _READ_BYTES, 0)
        return is_silent(four.decode("ascii", "replace"), six.decode("ascii", "replace"))


def is_silent(four: str, six: str) -> bool:
    """Whether the counters of a namespace say that nobody sent anything there but the kernel, looking for neighbours.

    ``four`` and ``six`` are /proc/net/snmp and snmp6, the latter empty where there is no IPv6. proc_net(5), RFC 4293.
    """
    sent = [_counter(four, *name) for name in (("Ip", "OutRequests"), ("Tcp", "ActiveOpens"), ("Tcp", "PassiveOpens"))]
    if any(count != "0" for count in sent):
        return False
    return _counter_of_six(six, "Ip6OutRequests") == _counter_of_six(six, "Icmp6OutMsgs")


def _counter(text: str, protocol: str, name: str) -> str:
    """``name`` of two lines that begin with ``protocol``, the first with names, the second with their values."""
    names, _, rest = text[text.find(f"{protocol}: ") :].partition("\n")
    for column, value in zip(names.split(), rest.partition("\n")[0].split(), strict=False):
        if column == name:
            return value
    return ""


def _counter_of_six(text: str, name: str) -> str:
    """The second column of the line of ``name``, empty where there is none."""
    return text.partition(f"{name} ")[2].partition("\n")[0].strip()


class UnusedNetworks:
    """Owns the namespaces it is given; ``drop_station`` is told of the stations of those that are given up."""

    def __init__(self, drop_station: Callable[[Station], None]) -> None:
        self._drop_station = drop_station
        self._kept: list[OwnNetwork] = []

    def take(self, *, leads_outside: bool) -> OwnNetwork | None:
        """One with a station, or one without; the caller's own now."""
        for network in self._kept:
            if (network.station is not None) == leads_outside:
                self._kept.remove(network)
                return network
        return None

    def keep(self, network: OwnNetwork) -> None:
        """The namespace, which nobody has sent anything in, waits to be taken; of many, some are given up."""
        self._kept.append(network)
        if len(self._kept) > _MOST:
            self.drop(self._kept.pop(0))

    def drop(self, network: OwnNetwork) -> None:
        """The namespace is gone as soon as nobody is in it."""
        os.close(network.namespace)
        if network.station is not None:
            self._drop_station(network.station)

    def close(self) -> None:
        """None waits any more."""
        while self._kept:
            self.drop(self._kept.pop())
