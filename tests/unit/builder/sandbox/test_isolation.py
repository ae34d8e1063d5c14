"""Which level a machine gives, as a table; what is told where one can't be had."""

from __future__ import annotations

import pytest

from builder.sandbox.isolation import Abilities, Isolation, IsolationError, explain_refusal, plan_isolation

ROOT = Abilities(machine_root=True, new_processes=True, new_proc=True)
USER = ROOT._replace(machine_root=False)
HIDDEN = USER._replace(new_proc=False)
HIDDEN_ROOT = ROOT._replace(new_proc=False)
NO_PID = Abilities(machine_root=True, new_processes=False, new_proc=False)
NO_MOUNTS = NO_PID._replace(mounts=False)


@pytest.mark.parametrize(
    ("wanted", "able", "expected"),
    [
        ("auto", ROOT, "full"),
        ("full", ROOT, "full"),
        ("no-new-proc", ROOT, "no-new-proc"),
        ("chroot", ROOT, "chroot"),
        ("auto", USER, "rootless"),
        ("rootless", USER, "rootless"),
        ("chroot", USER, "chroot"),
        ("auto", HIDDEN, "no-new-proc"),
        ("auto", HIDDEN_ROOT, "no-new-proc"),
        ("chroot", HIDDEN, "chroot"),
        ("auto", NO_PID, "chroot"),
        ("auto", NO_MOUNTS, "no-namespaces"),
        ("no-namespaces", NO_MOUNTS, "no-namespaces"),
        (
            "chroot",
            NO_MOUNTS,
            "isolation chroot can't be had here: nothing can be mounted, and user namespaces are refused",
        ),
        ("rootless", ROOT, "isolation rootless can't be had here: a user namespace was not entered"),
        (
            "full",
            USER,
            "isolation full can't be had here: it takes root with CAP_SYS_ADMIN, outside of user namespaces",
        ),
        (
            "rootless",
            HIDDEN,
            "isolation rootless can't be had here: /proc can't be mounted, as in a container that hides parts of its own",
        ),
        (
            "full",
            HIDDEN_ROOT,
            "isolation full can't be had here: /proc can't be mounted, as in a container that hides parts of its own",
        ),
        ("no-new-proc", NO_PID, "isolation no-new-proc can't be had here: no pid namespace can be made"),
    ],
)
def test_level(wanted: str, able: Abilities, expected: str) -> None:
    try:
        found = plan_isolation(wanted, able, one_id=False).level
    except IsolationError as error:
        found = str(error)
    assert found == expected


def test_one_id_is_told_of_plain_users_alone() -> None:
    assert str(plan_isolation("auto", USER, one_id=True)) == "rootless with one id"
    assert str(plan_isolation("auto", HIDDEN, one_id=True)) == "no-new-proc with one id"
    assert plan_isolation("auto", ROOT, one_id=False) == Isolation("full")


def test_hint_names_what_works_instead() -> None:
    with pytest.raises(IsolationError) as failure:
        plan_isolation("full", HIDDEN, one_id=False)
    assert failure.value.hint == "no-new-proc can"


def test_refusal_says_what_helps_where_it_happens() -> None:
    assert "docker run --device /dev/fuse" in explain_refusal("x", in_container=True).hint
    assert "sysctl" in explain_refusal("x", in_container=False).hint
