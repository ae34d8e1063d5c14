"""What is the same for all steps of a server: groups, filters, the private network.

Invariants: a filter is compiled once for what it depends on; the network is made when the first step wants it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.limits import DEFAULT_SHM_BYTES
from builder.network.hub import Hub
from builder.network.reuse import UnusedNetworks
from builder.sandbox import _sys, caps, controlfiles, seccomp
from builder.sandbox.group import Group
from builder.sandbox.idmap import can_set_groups
from builder.sandbox.isolation import Isolation
from builder.sandbox.limitfiles import needed_controllers
from builder.sandbox.slice import Slice
from builder.sandbox.spec import Network, Runtime, SandboxSpec, SpecError
from unionfs.namedtuple import NamedTuple
from unionfs.privileges import effective_capabilities

if TYPE_CHECKING:
    from builder.sandbox.handover import Handover


class Kind(NamedTuple):
    """What has to be known of a step to make its processes ready; ``network`` default means the private one."""

    network: Network
    capabilities: int
    insecure: bool = False
    cgroup_parent: str | None = None
    controllers: frozenset[str] = frozenset()
    own_processes: bool = True
    own_mounts: bool = True
    runtime: Runtime | None = None
    ignore_chown: bool = False

    @property
    def namespaces(self) -> int:
        """Flags of clone(2); the cgroup namespace is entered later, by init in its groups, or it would show ours."""
        if not self.own_mounts:
            return 0
        flags = _sys.CLONE_NEWNS | (_sys.CLONE_NEWPID if self.own_processes else 0)
        # a runtime makes the others
        flags |= 0 if self.runtime else _sys.CLONE_NEWUTS | (_sys.CLONE_NEWIPC if self.own_processes else 0)
        return flags if self.network == "host" else flags | _sys.CLONE_NEWNET

    @property
    def shares_network(self) -> bool:
        """Whether a step can be given the network namespace of another that left it as it was: neither changes it."""
        is_own = self.network != "host" and self.own_processes and self.runtime is None
        return is_own and not self.insecure and not self.capabilities & ~caps.DEFAULT_MASK


class Machine:
    """What is the same for all steps of a server."""

    def __init__(self, groups: Slice, isolation: Isolation, *, pivots: bool = True) -> None:
        """``pivots`` says that pivot_root(2) is allowed."""
        self.groups = groups
        self.isolation = isolation
        self.pivots = pivots
        self.last_capability = caps.last_capability()
        self.held_capabilities = effective_capabilities()
        self.sets_groups = can_set_groups()
        self.hub = Hub(is_root=not isolation.user_namespace)
        self.networks = UnusedNetworks(self.hub.give_back)
        self.calls = seccomp.read_table()
        # who has it can leave a root that is no mount
        self._kept_back = 0 if isolation.own_mounts else caps.SYS_CHROOT
        # at every other level a filter that can't be installed fails the step
        self.installs_filters = isolation.own_mounts or seccomp.may_install(
            controlfiles.read_bytes("/proc/self/status").decode("utf-8", "replace")
        )
        self._runtime_groups: Slice | None = None
        self._filters: dict[tuple[int, bool], _sys.SeccompFilter | None] = {}
        self.filter_for(caps.DEFAULT_MASK & self.held_capabilities)

    def close(self) -> None:
        """Groups and network are gone."""
        self.groups.close()
        if self._runtime_groups is not None:
            self._runtime_groups.close()
        self.networks.close()
        self.hub.close()

    def usual_kind(self, network: Network, controllers: frozenset[str]) -> Kind:
        """The kind of child that steps need which ask for nothing else."""
        return Kind(
            self._available(network) if self.isolation.own_processes else "host",
            caps.DEFAULT_MASK & self.held_capabilities & ~self._kept_back,
            controllers=controllers,
            own_processes=self.isolation.own_processes,
            own_mounts=self.isolation.own_mounts,
        )

    def kind_of(self, spec: SandboxSpec) -> Kind:
        """The kind of child ``spec`` needs.

        Raises:
            SpecError: a capability is not known, or the network can't be kept away.
        """
        if spec.network == "none" and not self.isolation.own_processes:
            raise SpecError(f"network 'none' can't be had with isolation {self.isolation}: only 'host' can")
        if not self.isolation.own_mounts:
            _refuse_mounts(spec, self.isolation)
        if spec.runtime is not None and not self.isolation.new_proc:
            raise SpecError(f"a runtime needs a /proc of its own, which isolation {self.isolation} has not")
        if spec.runtime is not None and spec.ignore_chown:
            raise SpecError("a runtime does not ignore chown: leave out --runtime or --ignore-chown-errors")
        return Kind(
            network=self._available(spec.network),
            capabilities=caps.plan_capabilities(spec.security, spec.cap_add, spec.cap_drop)
            & self.held_capabilities
            & ~self._kept_back,
            insecure=spec.security == "insecure",
            cgroup_parent=spec.cgroup_parent,
            controllers=needed_controllers(spec.limits),
            own_processes=self.isolation.own_processes,
            own_mounts=self.isolation.own_mounts,
            runtime=spec.runtime,
            ignore_chown=spec.ignore_chown,
        )

    def has_private_network(self) -> bool:
        """Whether steps can have one; waits until that is known."""
        return self.isolation.own_processes and self.hub.outlet().is_private

    def _available(self, network: Network) -> Network:
        return "host" if network == "default" and not self.has_private_network() else network

    def groups_for(self, kind: Kind) -> Slice:
        """Where the groups of a step of ``kind`` are made."""
        if kind.runtime is None:
            return self.groups
        if self._runtime_groups is None:
            self._runtime_groups = Slice.for_runtimes()
        return self._runtime_groups

    def hand_over(self, kind: Kind, group: Group) -> Handover | None:
        """What a step's runtime is, where it has one.

        Raises:
            CgroupError: it can't be told which groups are the step's.
        """
        if kind.runtime is None:
            return None
        from builder.sandbox.handover import Handover

        joins = kind.runtime.joins_groups
        return Handover(
            program=kind.runtime.program,
            joins=joins,
            capabilities=kind.capabilities,
            calls=self.calls,
            cgroups_path=None if joins else self.groups_for(kind).path_for_runtime(group),
            confine_devices=not joins and not self.isolation.user_namespace,
        )

    def filter_for(self, capabilities: int, *, ignore_chown: bool = False) -> _sys.SeccompFilter | None:
        """The filter for a step with these capabilities; None on a machine whose calls are not known."""
        wanted = capabilities, ignore_chown
        if wanted not in self._filters:
            names = caps.names_of(capabilities)
            program = seccomp.compile_filter(names, _sys.MACHINE, self.calls, ignore_chown=ignore_chown)
            self._filters[wanted] = _sys.SeccompFilter(program) if program else None
        return self._filters[wanted]


def _refuse_mounts(spec: SandboxSpec, isolation: Isolation) -> None:
    """Nothing is asked for that takes mounts, or would let the step out of a root that is none.

    Raises:
        SpecError: the first that is.
    """
    beyond = caps.plan_capabilities("sandbox", spec.cap_add, ("ALL", *spec.cap_drop))
    beyond &= ~caps.DEFAULT_MASK | caps.SYS_CHROOT
    for asked, what in (
        (spec.security == "insecure", "security 'insecure'"),
        (beyond, f"capability {', '.join(sorted(caps.names_of(beyond)))}"),
        (spec.read_only_root, "a root that can't be written"),
        (spec.limits.shm_bytes != DEFAULT_SHM_BYTES, "a size of /dev/shm"),
        (spec.ignore_chown, "chown that is ignored"),
    ):
        if asked:
            raise SpecError(f"{what} can't be had with isolation {isolation}")
