"""A picture of the pool at one moment, as far as procedures need it: one bulk read a class, then plain frozen
values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import memory, xmlrpc
from ..errors import Failure, TransportError
from ..releases import Release, find, of_host
from ..transport import Request, origin_at
from .hardware import NO_CPU, Cpu, Devices, cpu_of_guest, cpu_of_host

if TYPE_CHECKING:
    from ..session import Session
    from ..values import Ref

SRIOV = "it is on a network that its host's card makes (SR-IOV)"
MOVES_WITHOUT_DRIVERS = "6.0"
"""The release since which a guest without hardware virtualisation migrates whatever its drivers."""
UPGRADE_KEY = "rolling_upgrade_in_progress"
MARK = "xenctl-run"
"""The key in the pool's `other_config` that tells everybody of a run under way."""
CAME_FROM, TO = "xenctl-upgraded", " to "
"""The key there that tells of the last upgrade: from which product version it went, and to which."""


@dataclass(frozen=True)
class HostFacts:
    """One host. `room` is the memory in bytes that guests may use; `storage` and `networks` are what it can reach;
    `hvm` says whether its processor runs fully virtual guests, `cpu` what that can do, and `devices` are the GPU groups
    that it has a card of."""

    ref: str
    uuid: str
    name: str
    address: str
    release: Release
    version: str
    enabled: bool
    live: bool
    room: int
    storage: frozenset[str]
    networks: frozenset[str]
    hvm: bool
    unplugged: tuple[str, ...]
    cpu: Cpu = NO_CPU
    devices: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Disc:
    """A CD in a VM's drive: the drive's VBD, and the VDI in it."""

    vbd: str
    vdi: str
    sr: str


@dataclass(frozen=True)
class VMFacts:
    """One guest. `host` is the uuid of the host it runs on, empty where it does not; `memory` what it takes of a host,
    in bytes; `storage` the SRs of its disks, CDs apart; `image` that of its suspend image; `stuck` why it could not
    migrate, if so, nor be shut down cleanly; `tied` why it cannot migrate, but can be shut down; `affinity` the uuid of
    the host that it prefers, `order` its place when many are started. `memory_most` is what it takes when nothing makes
    it shrink, `cpu` what it was booted with, `devices` the GPU groups that it needs, `apart` the groups whose members
    rather run on different hosts, `appliance` the vApp that it is part of."""

    ref: str
    uuid: str
    name: str
    state: str
    host: str
    memory: int
    storage: frozenset[str]
    networks: frozenset[str]
    hvm: bool
    discs: tuple[Disc, ...]
    image: str
    stuck: str
    busy: tuple[str, ...]
    affinity: str = ""
    order: int = 0
    tied: str = ""
    memory_most: int = 0
    cpu: Cpu = NO_CPU
    devices: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    appliance: str = ""


@dataclass(frozen=True)
class PoolFacts:
    """The pool: hosts and guests (no control domains, templates or snapshots) by uuid. `mark` is the run that it is
    marked with, `unplugged` the PBDs that are not plugged. `upgraded` is the last upgrade that a run of ours brought to its
    end, as the product versions from which and to which it went; both are empty where nobody noted one."""

    ref: str
    uuid: str
    name: str
    master: str
    ha_enabled: bool
    upgrading: bool
    hosts: Mapping[str, HostFacts]
    vms: Mapping[str, VMFacts]
    storage_names: Mapping[str, str]
    mark: str = ""
    unplugged: frozenset[str] = frozenset()
    upgraded: tuple[str, str] = ("", "")
    network_names: Mapping[str, str] = field(default_factory=dict)
    group_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def release(self) -> Release:
        """The release of the master, whose rules hold."""
        return self.hosts[self.master].release


def observe(session: Session) -> PoolFacts:
    """Read the pool. Raises what `Session.call` does."""
    pool_ref, pool = next(iter(session.pool.get_all_records().items()))
    hosts, metrics = session.host.get_all_records(), session.host_metrics.get_all_records()
    pbds, pifs = session.PBD.get_all_records(), session.PIF.get_all_records()
    srs, vdis, vbds = session.SR.get_all_records(), session.VDI.get_all_records(), session.VBD.get_all_records()
    vifs, agents = session.VIF.get_all_records(), session.VM_guest_metrics.get_all_records()
    networks = session.network.get_all_records()
    devices = Devices.read(session)
    vms = session.VM.get_all_records()
    releases = {
        ref: of_host(host.software_version, (host.API_version_major, host.API_version_minor))
        for ref, host in hosts.items()
    }
    rules = releases[pool.master]
    dom0: dict[str, int] = {}
    for vm in vms.values():
        if vm.is_control_domain:
            dom0[vm.resident_on] = dom0.get(vm.resident_on, 0) + memory.needed(vm, rules)

    def host_facts(ref: Ref[Any], host: Any) -> HostFacts:
        known = metrics.get(host.metrics)
        mine = [pbd for pbd in pbds.values() if pbd.host == ref]
        total = known.memory_total if known is not None else 0
        return HostFacts(
            ref=ref,
            uuid=host.uuid,
            name=host.name_label,
            address=host.address,
            release=releases[ref],
            version=host.software_version.get("product_version", ""),
            enabled=host.enabled,
            live=known is not None and known.live,
            room=total - host.get("memory_overhead", 0) - dom0.get(ref, 0),
            storage=frozenset(pbd.SR for pbd in mine if pbd.currently_attached and pbd.SR in srs),
            networks=frozenset(pif.network for pif in pifs.values() if pif.host == ref),
            hvm=any("hvm" in capability for capability in host.capabilities),
            unplugged=tuple(srs[pbd.SR].name_label for pbd in mine if not pbd.currently_attached and pbd.SR in srs),
            cpu=cpu_of_host(host.get("cpu_info", {})),
            devices=devices.of_host(ref),
        )

    facts = {host.uuid: host_facts(ref, host) for ref, host in hosts.items()}
    by_ref = {host.ref: host.uuid for host in facts.values()}
    virtual = {pif.network for pif in pifs.values() if pif.get("sriov_logical_PIF_of")}
    wired = {ref for ref, network in networks.items() if network.PIFs}

    def vm_facts(ref: str, vm: Any) -> VMFacts:
        drives = [vbds[vbd] for vbd in vm.VBDs if vbd in vbds]
        disks = [vdis[d.VDI].SR for d in drives if d.type != "CD" and d.VDI in vdis]
        return VMFacts(
            ref=ref,
            uuid=vm.uuid,
            name=vm.name_label,
            state=vm.power_state,
            host=by_ref.get(vm.resident_on, ""),
            memory=memory.needed(vm, rules),
            storage=frozenset(disks),
            networks=frozenset(vifs[vif].network for vif in vm.VIFs if vif in vifs) & wired,
            hvm=bool(vm.HVM_boot_policy),
            discs=tuple(
                Disc(vbd, vbds[vbd].VDI, vdis[vbds[vbd].VDI].SR)
                for vbd in vm.VBDs
                if vbd in vbds and vbds[vbd].type == "CD" and not vbds[vbd].empty and vbds[vbd].VDI in vdis
            ),
            image=vdis[vm.suspend_VDI].SR if vm.power_state == "Suspended" and vm.suspend_VDI in vdis else "",
            stuck=_stuck(vm, agents, vdis),
            busy=tuple(sorted(set(vm.current_operations.values()))),
            affinity=by_ref.get(vm.affinity, ""),
            order=vm.get("order", 0),
            tied=devices.tie(vm)
            or (SRIOV if {vifs[v].network for v in vm.VIFs if v in vifs} & virtual else "")
            or _unmoved(vm, agents, rules),
            memory_most=memory.most(vm),
            cpu=cpu_of_guest(vm),
            devices=devices.needed(vm),
            apart=devices.apart(vm),
            appliance=vm.get("appliance", ""),
        )

    guests = {
        vm.uuid: vm_facts(ref, vm)
        for ref, vm in vms.items()
        if not vm.is_control_domain and not vm.is_a_template and not vm.get("is_a_snapshot", False)
    }
    return PoolFacts(
        ref=pool_ref,
        uuid=pool.uuid,
        name=pool.name_label,
        master=by_ref[pool.master],
        ha_enabled=pool.get("ha_enabled", False),
        upgrading=UPGRADE_KEY in pool.other_config,
        hosts=facts,
        vms=guests,
        storage_names={ref: sr.name_label for ref, sr in srs.items()},
        mark=pool.other_config.get(MARK, ""),
        upgraded=_upgraded(pool.other_config.get(CAME_FROM, "")),
        unplugged=frozenset(ref for ref, pbd in pbds.items() if not pbd.currently_attached),
        network_names={ref: network.name_label for ref, network in networks.items()},
        group_names={ref: group.name_label for ref, group in devices.groups.items()},
    )


def _upgraded(note: str) -> tuple[str, str]:
    source, _, target = note.partition(TO)
    return source, target


def _stuck(vm: Any, agents: Mapping[Any, Any], vdis: Mapping[Any, Any]) -> str:
    """Why a guest can neither migrate nor be shut down cleanly (an HVM guest's drivers), nor be resumed (a suspended
    one's image). Empty where it can."""
    if vm.power_state == "Suspended":
        return "" if vm.suspend_VDI in vdis else "its suspend image is gone, so it cannot be resumed"
    return _drivers_lacking(vm, agents) if vm.HVM_boot_policy and vm.power_state != "Halted" else ""


def _unmoved(vm: Any, agents: Mapping[Any, Any], release: Release) -> str:
    """Why a guest without hardware virtualisation, which shuts down cleanly all the same, cannot migrate: up to 5.6 Feature
    Pack 1 it needed drivers for that, too. Empty where it can."""
    if vm.HVM_boot_policy or vm.power_state != "Running" or release >= find(MOVES_WITHOUT_DRIVERS):
        return ""
    return _drivers_lacking(vm, agents)


def _drivers_lacking(vm: Any, agents: Mapping[Any, Any]) -> str:
    """What is wrong with the drivers that a guest reports; empty where nothing is."""
    agent = agents.get(vm.guest_metrics)
    major = agent.PV_drivers_version.get("major", "") if agent is not None else ""
    if not major.isdigit():
        return "it has no paravirtual drivers"
    return "" if int(major) >= 4 else f"its paravirtual drivers are too old (major version {major}, 4 is needed)"


def attached(session: Session, address: str) -> bool:
    """Whether the member at `address` is up and out of emergency mode.

    A member says so to a login: it names the master before it looks at any password, so none is sent. In emergency mode
    it answers with the reason instead.
    """
    body = xmlrpc.dumps_call("session.login_with_password", ("", ""))
    try:
        request = Request(origin_at(session.origin, address), "POST", "/", {"content-type": "text/xml"}, body)
        xmlrpc.loads_response(session.transport.send(request).read())
    except Failure as error:
        return error.code == "HOST_IS_SLAVE"
    except (TransportError, ValueError):  # nobody there, no XML-RPC, or no address at all
        pass
    return False
