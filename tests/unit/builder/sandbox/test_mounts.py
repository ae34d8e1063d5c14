from __future__ import annotations

from builder.limits import Limits
from builder.sandbox import _sys
from builder.sandbox.mounts import (
    CGROUPS,
    Devices,
    Filesystem,
    Mask,
    ReadOnly,
    Seal,
    Texts,
    Tree,
    plan_base,
    plan_own,
)
from builder.sandbox.spec import Bind, File, SandboxSpec, Tmpfs

SPEC = SandboxSpec(argv=("true",))


def by_target(mounts: tuple[object, ...]) -> dict[str, object]:
    return {mount.target: mount for mount in mounts if isinstance(mount, Filesystem | Tree)}


def test_outer_places_come_first() -> None:
    targets = [
        mount.target for mount in plan_base(insecure=False, device_control=True, cgroups=()) if hasattr(mount, "target")
    ]
    for place, target in enumerate(targets):
        assert not any(target.startswith(later + "/") for later in targets[place + 1 :]), target


def test_without_device_control_no_filesystem_takes_nodes() -> None:
    plan = plan_base(insecure=False, device_control=False, cgroups=())
    assert Devices(bound=True) in plan
    for mount in plan:
        if isinstance(mount, Filesystem) and mount.kind != "devpts":
            assert mount.attributes & _sys.MOUNT_ATTR_NODEV, mount


def test_insecure_masks_nothing() -> None:
    plan = plan_base(insecure=True, device_control=True, cgroups=())
    assert not [mount for mount in plan if isinstance(mount, Mask | ReadOnly)]
    assert not by_target(plan)["/sys"].attributes & _sys.MOUNT_ATTR_RDONLY


def test_groups_of_version_one_lie_in_a_sealed_directory() -> None:
    plan = plan_base(insecure=False, device_control=True, cgroups=(("memory", "/a"), ("pids", "/b")))
    assert [mount for mount in plan if getattr(mount, "target", "").startswith(CGROUPS)] == [
        Filesystem("tmpfs", CGROUPS, by_target(plan)[CGROUPS].attributes, (("mode", "755"),)),
        Tree("/a", f"{CGROUPS}/memory", by_target(plan)[f"{CGROUPS}/memory"].attributes, "cgroup"),
        Tree("/b", f"{CGROUPS}/pids", by_target(plan)[f"{CGROUPS}/pids"].attributes, "cgroup"),
        Seal(CGROUPS),
    ]


def test_group_of_version_two_lies_there_itself() -> None:
    plan = plan_base(insecure=False, device_control=True, cgroups=(("", "/a"),))
    assert by_target(plan)[CGROUPS].source == "/a"
    assert by_target(plan)[CGROUPS].attributes & _sys.MOUNT_ATTR_RDONLY


def test_own_mounts_are_ordered_by_depth() -> None:
    spec = SPEC._replace(
        binds=(Bind("/x", "/a/b/c"), Bind("/y", "/a", read_only=False)),
        tmpfs=(Tmpfs("/a/b"),),
        limits=Limits(shm_bytes=1),
    )
    plan = plan_own(spec, {"/etc/hosts": "text"})
    assert plan[0] == Texts((File("/etc/hosts", "text", 0o644),))
    assert [mount.target for mount in plan[1:] if isinstance(mount, Filesystem | Tree)] == [
        "/a",
        "/dev/shm",
        "/a/b",
        "/a/b/c",
    ]
    attributes = {target: mount.attributes for target, mount in by_target(plan).items()}
    assert attributes["/a/b/c"] & _sys.MOUNT_ATTR_RDONLY
    assert not attributes["/a"] & _sys.MOUNT_ATTR_RDONLY


def test_default_step_has_no_own_mounts() -> None:
    assert plan_own(SPEC, {}) == ()
