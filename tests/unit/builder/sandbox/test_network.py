from __future__ import annotations

import pytest

from builder.options import Dns
from builder.sandbox.network import hosts, resolv_conf
from builder.sandbox.spec import SpecError

STUB = "# made by resolved\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n"


@pytest.mark.parametrize(
    ("text", "host_network", "expected"),
    [
        ("nameserver 10.0.0.1\nnameserver 127.0.0.1\n", False, ["10.0.0.1"]),
        ("nameserver 10.0.0.1\nnameserver 127.0.0.1\n", True, ["10.0.0.1", "127.0.0.1"]),
        ("nameserver ::1\nnameserver fe80::1%eth0\n", False, ["fe80::1%eth0"]),
        (STUB, True, ["127.0.0.53"]),
        (STUB, False, ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"]),
        ("", False, ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"]),
        ("", True, []),
    ],
)
def test_resolvers(text: str, host_network: bool, expected: list[str]) -> None:
    lines = resolv_conf(text, Dns(), host_network=host_network).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("nameserver")] == expected


def test_other_lines_stay() -> None:
    assert "search example.org" in resolv_conf(STUB, Dns(), host_network=False).splitlines()


def test_given_resolvers_replace_the_hosts() -> None:
    text = resolv_conf("nameserver 10.0.0.1\nsearch x\n", Dns(("127.0.0.1", "1.1.1.1")), host_network=False)
    assert text == "search x\nnameserver 127.0.0.1\nnameserver 1.1.1.1\n"


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        (Dns(search=("a.org", "b.org")), ["nameserver 9.9.9.9", "options edns0", "search a.org b.org"]),
        (Dns(search=(".",)), ["nameserver 9.9.9.9", "options edns0"]),
        (Dns(options=("ndots:2", "rotate")), ["nameserver 9.9.9.9", "search example.org", "options ndots:2 rotate"]),
    ],
)
def test_given_domains_and_options_replace_the_hosts(dns: Dns, expected: list[str]) -> None:
    text = resolv_conf(STUB.replace("127.0.0.53", "9.9.9.9"), dns, host_network=False)
    assert text.splitlines()[1:] == expected


def test_host_gateway_is_where_the_host_is() -> None:
    assert hosts("box", ("host:host-gateway",), "10.200.0.1").splitlines()[-1] == "10.200.0.1\thost"


def test_hosts_entries() -> None:
    lines = hosts("box", ("a:10.0.0.1", "b=10.0.0.2", "c:[2001:db8::1]", "d:2001:db8::2")).splitlines()
    assert lines[:3] == ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "127.0.1.1\tbox"]
    assert lines[3:] == ["10.0.0.1\ta", "10.0.0.2\tb", "2001:db8::1\tc", "2001:db8::2\td"]


@pytest.mark.parametrize("entry", ["name", "name:", ":10.0.0.1", "name:nowhere", "name:10.0.0.1:80"])
def test_malformed_hosts_entry(entry: str) -> None:
    with pytest.raises(SpecError, match="is no name:address"):
        hosts("box", (entry,))


@pytest.mark.parametrize(
    ("address", "stays"),
    [
        ("127.0.0.53", False),
        ("127.1.2.3", False),
        ("::1", False),
        ("::1%lo", False),
        ("10.0.0.1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.0.0.1", True),
        ("1::1", True),
        ("not-an-address", True),
    ],
)
def test_resolvers_on_loopback_addresses_are_left_out(address: str, *, stays: bool) -> None:
    text = resolv_conf(f"nameserver 10.9.9.9\nnameserver {address}\n", Dns(), host_network=False)
    assert (f"nameserver {address}\n" in text) is stays
