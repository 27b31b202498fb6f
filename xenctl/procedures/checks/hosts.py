"""Checks of hosts: whether each is there, processors, clocks, disks, and what the new release has no place for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from ..acts import mending
from ..hardware import Cpu
from ..observe import HostFacts
from .finding import BLOCKS, EITHER, WARNS, Check, Found
from .growth import GIB
from .keys import rsa_bits
from .survey import Situation

SKEW = 60.0
"""Seconds by which a host's clock may differ from the master's."""
LEAST_KEY = 2048


def _host(host: HostFacts, why: str, **more: Any) -> Found:
    return Found("host", host.uuid, host.name, why, **more)


# --- whether it is there


def _down(at: Situation) -> Iterator[Found]:
    return (_host(host, f"{host.name} is not running") for host in at.facts.hosts.values() if not host.live)


def _disabled(at: Situation) -> Iterator[Found]:
    for host, record in at.hosts():
        if host.live and not host.enabled and not at.half_done:
            resting = " (in maintenance mode)" if record.get("other_config", {}).get("MAINTENANCE_MODE") else ""
            step = mending.let_in(host.uuid)
            yield _host(host, f"{host.name} is disabled{resting}", steps=(step,), unmend=(mending.back(step),))


def _addresses(at: Situation) -> Iterator[Found]:
    for host in at.facts.hosts.values():
        others = [
            other.name for other in at.facts.hosts.values() if other is not host and other.address == host.address
        ]
        if others:
            yield _host(host, f"{host.name} has the same address as {', '.join(others)}: {host.address or 'none'}")


def _silent(at: Situation) -> Iterator[Found]:
    for host in at.facts.hosts.values():
        if host.uuid != at.facts.master and host.live and not at.ask.attached(host.address):
            why = f"{host.name} does not answer at {host.address or 'no address'} as a member of this pool"
            yield _host(host, why)


# --- clocks and processors


def _clocks(at: Situation) -> Iterator[Found]:
    master = at.facts.hosts[at.facts.master]
    known = {host.uuid: at.ask.servertime(host.ref) for host in at.facts.hosts.values() if host.live}
    right = known.get(master.uuid)
    for uuid, moment in known.items():
        if right is None or moment is None or abs(moment - right) < SKEW:
            continue
        way = "before" if moment > right else "behind"
        host = at.facts.hosts[uuid]
        yield _host(host, f"the clock of {host.name} is {abs(moment - right):.0f} seconds {way} the master's")


def _cpus(at: Situation, host: HostFacts) -> list[Mapping[str, Any]]:
    """The records of a host's processors."""
    return [cpu for cpu in at.records("host_cpu").values() if cpu["host"] == host.ref]


def _vendors(at: Situation) -> Iterator[Found]:
    known = {}
    for host, record in at.hosts():
        vendors = {cpu["vendor"] for cpu in _cpus(at, host)} | {record.get("cpu_info", {}).get("vendor", "")}
        known[host.name] = " and ".join(sorted(vendors - {""}))
    if len(set(known.values()) - {""}) > 1:
        told = ", ".join(f"{name} has {vendor or 'one that it does not tell'}" for name, vendor in known.items())
        level = BLOCKS if any(True for _ in at.up()) else WARNS
        why = f"processors are of different vendors ({told}): no guest moves from one to another while it runs"
        yield Found("pool", at.facts.uuid, at.facts.name, why, level=level)


def _levels(at: Situation) -> Iterator[Found]:
    """Since 7.0 a guest knows the features that it booted with; before, hosts are to be alike, by masks if need be."""
    infos = {host.uuid: record.get("cpu_info", {}) for host, record in at.hosts()}
    if any("features_hvm" in info for info in infos.values()):
        yield from _lacking(at)
        return
    levels = {host.name: _level(at, host, infos[host.uuid]) for host in at.facts.hosts.values()}
    everywhere = frozenset.intersection(*levels.values()) if all(levels.values()) else None
    for host in at.facts.hosts.values():
        more = sorted(levels[host.name] - everywhere) if everywhere is not None else []
        if more:
            said = ", ".join(more[:6]) + (" and more" if len(more) > 6 else "")
            why = f"the processor of {host.name} has what others lack ({said}): a guest from there may fail elsewhere"
            yield _host(host, why, level=WARNS)


def _level(at: Situation, host: HostFacts, info: Mapping[str, str]) -> frozenset[str]:
    """What a host's processors can, masks applied: the features as bits, or flags by name before hosts tell features."""
    if info.get("features"):
        return frozenset(f"feature {number}" for number in _bits(info["features"]))
    flags = {flag for cpu in _cpus(at, host) for flag in cpu["flags"].split()}
    return frozenset(flags)


def _lacking(at: Situation) -> Iterator[Found]:
    @cache
    def lacks(host: str, booted: Cpu) -> bool:
        """Many guests have booted with the same features. A host that tells none has none, as xapi takes it."""
        has = at.facts.hosts[host].cpu
        return not has.runs(booted) or (bool(booted.features) and not has.features)

    for vm, _ in at.up():
        booted = replace(vm.cpu, vendor="")
        others = [host for host in at.facts.hosts.values() if host.uuid != vm.host]
        without = [host.name for host in others if lacks(host.uuid, booted)]
        if without:
            nowhere = len(without) == len(others)
            why = f"{vm.name} runs with processor features that are missing on {', '.join(without)}; "
            why += "it can move nowhere: shut it down and start it again" if nowhere else "it cannot move there"
            yield Found("VM", vm.uuid, vm.name, why, level=BLOCKS if nowhere else WARNS)


def _bits(features: str) -> frozenset[int]:
    """The features that a text of hexadecimal words holds, by number. What is no such text holds none."""
    out = set()
    for place, word in enumerate(features.split("-")):
        try:
            value = int(word, 16)
        except ValueError:
            continue
        out |= {32 * place + bit for bit in range(value.bit_length()) if value >> bit & 1}
    return frozenset(out)


# --- disks and memory

LAYOUTS: Mapping[str, str] = {
    "false": "local storage is in use beside it",
    "not_enough_space": "there is not enough space",
    "vdi_present": "there are disks on the local storage",
    "utility_part_present": "a utility partition is in the way",
    "legacy_partition_table": "it has a DOS partition table",
}
"""What the upgrade plugin answers when the new disk layout is not possible, and what that means."""


def _layout(at: Situation) -> Iterator[Found]:
    if not at.crosses(7, 0) and not at.crosses(8, 3):
        return
    level, unknown = BLOCKS if at.reaches(8, 3) else WARNS, []
    for host in at.facts.hosts.values():
        answer = at.ask.plugin(host.ref, "testSafe2Upgrade") if host.live else None
        if answer is None:
            unknown.append(host.name)
        elif answer.strip().lower() != "true":
            reason = LAYOUTS.get(answer.strip(), answer.strip())
            then = "the installer refuses it" if level == BLOCKS else "the installer keeps the old one"
            yield _host(host, f"the disk of {host.name} cannot get the new layout: {reason}; {then}", level=level)
    if unknown:
        why = (
            f"whether the disks of {', '.join(unknown)} can get the new layout is not known here: they cannot be asked"
        )
        yield Found("pool", at.facts.uuid, at.facts.name, why, level=WARNS)


def _medium(at: Situation) -> Iterator[Found]:
    for host in at.facts.hosts.values():
        why = at.ask.medium(host.ref, at.target.product_version) if host.live else ""
        if why:
            yield _host(host, f"{host.name} cannot install itself from that URL: {why}")


def _memory(at: Situation) -> Iterator[Found]:
    for uuid, more in at.growth.items():
        host = at.facts.hosts[uuid]
        yield _host(host, f"the control domain of {host.name} takes {more / GIB:.1f} GiB more after the upgrade")


# --- what the new release has no place for


def _keys(at: Situation) -> Iterator[Found]:
    if not at.crosses(8, 2):
        return
    for host in at.facts.hosts.values():
        bits = rsa_bits(at.ask.certificate(host.ref) or "") if host.live else None
        if bits is not None and bits < LEAST_KEY:
            why = f"the certificate of {host.name} has a key of {bits} bits; from 8.2 on {LEAST_KEY} are the least"
            yield _host(host, why)


def _power_on(at: Situation) -> Iterator[Found]:
    for host, record in at.hosts():
        if at.crosses(8, 2) and record.get("power_on_mode") == "iLO":
            yield _host(host, f"{host.name} is switched on by iLO, which is gone from 8.2 on")


def _packages(at: Situation) -> Iterator[Found]:
    for host, record in at.hosts():
        packs = [
            key.partition(":")[2] or key
            for key in sorted(record.get("software_version", {}))
            if (key.startswith("xs:") and key not in ("xs:main", "xs:linux")) or key == "xscontainer"
        ]
        if packs:
            why = f"{host.name} has packages that the installer does not bring back: {', '.join(packs)}"
            yield _host(host, why)


def _restarts(at: Situation) -> Iterator[Found]:
    for host, record in at.hosts():
        if record.get("updates_requiring_reboot"):
            why = f"{host.name} waits for a restart after an update: what goes wrong may be the update's fault"
            yield _host(host, why)


# --- iSCSI names


def iqn(record: Mapping[str, Any]) -> str:
    """The iSCSI name of a host: a field since 7.5, before a key."""
    return str(record.get("iscsi_iqn") or record.get("other_config", {}).get("iscsi_iqn", ""))


ISCSI = ("lvmoiscsi", "iscsi")


def _iscsi(at: Situation) -> Iterator[Found]:
    names: dict[str, list[str]] = {}
    used = {sr_ref for sr_ref, sr in at.records("SR").items() if sr["type"] in ISCSI}
    by_ref = {pbd["host"] for pbd in at.records("PBD").values() if pbd["SR"] in used}
    for host, record in at.hosts():
        if iqn(record):
            names.setdefault(iqn(record), []).append(host.name)
        elif host.ref in by_ref:
            yield _host(host, f"{host.name} uses iSCSI storage and tells no name of its own (iscsi_iqn)")
    for name, hosts in names.items():
        if len(hosts) > 1:
            why = f"{', '.join(hosts)} have the same iSCSI name: {name}"
            yield Found("pool", at.facts.uuid, at.facts.name, why)


CHECKS = (
    Check(*("host-down", BLOCKS, "whether the master hears from every host"), "start the host", _down),
    Check(
        *("host-disabled", BLOCKS, "hosts that are disabled, or in maintenance mode"),
        *("enable the host; it is disabled again at the end", _disabled),
    ),
    Check(*("same-address", BLOCKS, "hosts with one address"), "give each its own address", _addresses),
    Check(
        *("silent-member", BLOCKS, "whether every member answers at its address and names this pool's master"),
        *("restart its toolstack; see to the network", _silent),
    ),
    Check(
        *("clock", WARNS, f"clocks that differ from the master's by {SKEW:.0f} seconds or more"),
        *("give every host the same time servers", _clocks),
    ),
    Check(
        *("cpu-vendor", EITHER, "processors of different vendors; they block while any guest is up"),
        *("shut the guests down", _vendors),
    ),
    Check(
        *("cpu-features", EITHER, "processor features that guests have and other hosts lack"),
        *("mask the features, or restart the guest on the least host", _levels),
    ),
    Check(
        *("disk-layout", EITHER, "whether disks can get the layout of 7.0; from 8.3 on the old one is refused"),
        *("empty the local storage, or reinstall the host", _layout),
    ),
    Check(
        *("medium", BLOCKS, "where hosts install themselves: whether each can from that URL, and what is there"),
        *("put the medium of the target where every host reaches it", _medium),
    ),
    Check(
        *("dom0-memory", WARNS, "control domains that grow; the plan counts with it"),
        *("leave room", _memory),
    ),
    Check(
        *("certificate-key", WARNS, f"certificates with RSA keys below {LEAST_KEY} bits, when going to 8.2 or past it"),
        *("install a certificate with a longer key", _keys),
    ),
    Check(
        *("power-on", WARNS, "hosts that are switched on by iLO, when going to 8.2 or past it"),
        *("set another power-on mode", _power_on),
    ),
    Check(
        *("packages", WARNS, "supplemental packs, which an upgrade removes"),
        *("have the packs for the new release ready", _packages),
    ),
    Check(
        *("restart-pending", WARNS, "hosts that wait for a restart"),
        *("restart them one by one first", _restarts),
    ),
    Check(
        *("iscsi-name", WARNS, "iSCSI names that two hosts share, or that a host with iSCSI storage does not tell"),
        *("set host.iscsi_iqn, or other_config:iscsi_iqn before 7.5", _iscsi),
    ),
)
