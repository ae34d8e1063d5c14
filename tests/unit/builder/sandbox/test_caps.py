from __future__ import annotations

import pytest

from builder.sandbox import caps
from builder.sandbox.spec import SpecError

MOBY = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"


def test_default_set_is_that_of_containers() -> None:
    assert caps.names_of(caps.DEFAULT_MASK) == frozenset(MOBY.split())


@pytest.mark.parametrize(
    ("security", "add", "drop", "names"),
    [
        ("sandbox", (), ("ALL",), ""),
        ("sandbox", ("CAP_KILL",), ("all",), "KILL"),
        ("sandbox", ("chown", "SYS_ADMIN"), ("ALL",), "CHOWN SYS_ADMIN"),
        ("sandbox", ("KILL",), ("ALL", "KILL"), ""),
        ("insecure", (), (), " ".join(caps.NAMES)),
        ("sandbox", ("ALL",), (), " ".join(caps.NAMES)),
        ("sandbox", ("ALL",), ("SYS_ADMIN",), " ".join(name for name in caps.NAMES if name != "SYS_ADMIN")),
    ],
)
def test_plan(security: str, add: tuple[str, ...], drop: tuple[str, ...], names: str) -> None:
    assert caps.names_of(caps.plan_capabilities(security, add, drop)) == frozenset(names.split())


def test_unknown_name_is_refused() -> None:
    with pytest.raises(SpecError, match="capability 'CAP_NONSENSE' is not known"):
        caps.plan_capabilities("sandbox", ("CAP_NONSENSE",), ())


def test_every_capability_of_this_kernel_has_a_name() -> None:
    assert caps.last_capability() < len(caps.NAMES)
