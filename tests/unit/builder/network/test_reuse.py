"""What the counters of a network namespace say of those who were in it, and which namespaces are kept."""

from __future__ import annotations

import os

import pytest

from builder.network.hub import Station
from builder.network.reuse import OwnNetwork, UnusedNetworks, is_silent

FOUR = """\
Ip: Forwarding DefaultTTL InReceives OutRequests OutDiscards
Ip: 2 64 {received} {sent} 0
Icmp: InMsgs OutMsgs
Icmp: 0 0
Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens
Tcp: 1 -1 {opened} {accepted}
"""
SIX = """\
Ip6InReceives                   \t0
Ip6OutRequests                  \t{sent}
Ip6OutDiscards                  \t0
Icmp6OutMsgs                    \t{messages}
"""
NONE = {"received": 0, "sent": 0, "opened": 0, "accepted": 0}


@pytest.mark.parametrize(
    ("four", "six", "silent"),
    [
        ({}, {"sent": 0, "messages": 0}, True),
        ({}, {"sent": 4, "messages": 4}, True),
        ({}, {"sent": 5, "messages": 4}, False),
        ({}, None, True),
        ({"received": 3}, None, True),
        ({"sent": 1}, {"sent": 0, "messages": 0}, False),
        ({"opened": 1}, None, False),
        ({"accepted": 2}, None, False),
    ],
)
def test_who_sent_something(four: dict[str, int], six: dict[str, int] | None, silent: bool) -> None:
    assert is_silent(FOUR.format(**{**NONE, **four}), "" if six is None else SIX.format(**six)) is silent


@pytest.mark.parametrize(
    "four", ["", "Ip: A\nIp: 0\n", "Tcp: ActiveOpens PassiveOpens\nTcp: 0 0\n", "Ip: OutRequests\n"]
)
def test_what_is_not_told_is_not_taken_for_silence(four: str) -> None:
    assert not is_silent(four, "")


def test_kept_are_a_few_and_of_both_kinds() -> None:
    dropped: list[Station] = []
    networks = UnusedNetworks(dropped.append)
    stations = [Station(-1, number, "", "", 0) for number in range(5)]
    kept = [OwnNetwork(os.open("/proc/self/ns/net", os.O_RDONLY), station) for station in (*stations, None)]
    assert networks.take(leads_outside=True) is None
    for network in kept:
        networks.keep(network)
    assert dropped == stations[:2]
    assert networks.take(leads_outside=False) == kept[-1]
    assert networks.take(leads_outside=False) is None
    assert networks.take(leads_outside=True) == kept[2]
    os.close(kept[-1].namespace)
    os.close(kept[2].namespace)
    networks.close()
    assert sorted(dropped) == sorted({*stations} - {stations[2]})
