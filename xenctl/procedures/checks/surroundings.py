"""Checks of storage and networks: what hosts reach, what the installer loses, addresses that may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..acts import mending
from ..observe import HostFacts
from .finding import BLOCKS, EITHER, WARNS, Check, Found
from .survey import Situation


def _unplugged(at: Situation) -> Iterator[Found]:
    used = {sr for vm, _ in at.up() for sr in vm.storage}
    for host in at.facts.hosts.values():
        left = list(host.unplugged)
        for ref, pbd in at.records("PBD").items():
            if pbd["host"] != host.ref or pbd["currently_attached"] or pbd["SR"] not in at.facts.storage_names:
                continue
            sr = at.facts.storage_names[pbd["SR"]]
            left.remove(sr)
            # One that no guest needs may be dead, and would stop the run before it begins.
            steps = (mending.plug(host.uuid, pbd, ref, sr),) if pbd["SR"] in used and host.live else ()
            yield Found("PBD", pbd["uuid"], sr, f"{host.name}: {sr} is not plugged", steps)
        for sr in left:
            yield Found("host", host.uuid, host.name, f"{host.name}: {sr} is not plugged")


def _reach(at: Situation) -> Iterator[Found]:
    """Shared storage that a guest uses and some host does not reach: the guest cannot go there."""
    for ref, sr in at.records("SR").items():
        users = sorted(vm.name for vm, _ in at.up() if ref in vm.storage)
        without = _without(at, ref) if users and sr["shared"] else []
        if without:
            why = f"{sr['name_label']} is not reached from {', '.join(without)}; guests that need it: {_some(users)}"
            yield Found("SR", sr["uuid"], sr["name_label"], why)


def _without(at: Situation, sr: str) -> list[str]:
    return [host.name for host in at.facts.hosts.values() if sr not in host.storage]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


PATHS, BOOT = "mpath-", "mpath-boot"
"""What the keys begin with under which the storage manager counts paths, in the `other_config` of a PBD, and of a host for
the disk that it boots from."""


def _paths(at: Situation) -> Iterator[Found]:
    """A path that is down now is one that a host may need when it comes back."""
    for pbd in at.records("PBD").values():
        host = next((host for host in at.facts.hosts.values() if host.ref == pbd["host"]), None)
        if host is None or not pbd["currently_attached"]:
            continue
        sr = at.survey.get("SR", pbd["SR"]).get("name_label", "")
        for disk, active, total in _counted(pbd.get("other_config", {})):
            why = f"{host.name}: {sr} has {active} of {total} paths (SCSI id {disk})"
            yield Found("PBD", pbd["uuid"], sr, why)
    for host, record in at.hosts():
        for disk, active, total in _counted(record.get("other_config", {})):
            if PATHS + disk == BOOT:
                why = f"{host.name}: the disk that it boots from has {active} of {total} paths"
                yield Found("host", host.uuid, host.name, why)


def _counted(config: Mapping[str, str]) -> Iterator[tuple[str, int, int]]:
    """Of each disk that lacks paths its SCSI id, how many are up, and the most that were ever seen. The text is a list of
    numbers, these two first; old releases add others."""
    for key, text in sorted(config.items()):
        if not key.startswith(PATHS):
            continue
        try:
            active, total = (int(number) for number in text.strip("[] ").split(",")[:2])
        except ValueError:
            continue
        if active < total:
            yield key.removeprefix(PATHS), active, total


def _gone(at: Situation) -> Iterator[Found]:
    for sr in at.records("SR").values():
        name = sr["name_label"]
        if sr["type"] == "cslg" and at.crosses(6, 1):
            why = f"{name} is StorageLink storage: detach it, and make another SR the default, before the upgrade"
            yield Found("SR", sr["uuid"], name, why, level=BLOCKS)
        elif sr["type"] == "lvmofcoe":
            why = f"{name} is software FCoE storage, which is deprecated and gone from later releases"
            yield Found("SR", sr["uuid"], name, why, level=WARNS)


# --- networks


def _networks(at: Situation) -> Iterator[Found]:
    for ref, network in at.records("network").items():
        users = sorted(vm.name for vm, _ in at.up() if ref in vm.networks)
        without = [host.name for host in at.facts.hosts.values() if ref not in host.networks] if users else []
        if without:
            why = f"{network['name_label']} is not on {', '.join(without)}; guests that need it: {_some(users)}"
            yield Found("network", network["uuid"], network["name_label"], why)


def _master_address(at: Situation) -> Iterator[Found]:
    """Members know the master by its address alone. A release before 4.1 does not tell how a host comes by it."""
    master = at.facts.hosts[at.facts.master]
    for pif in at.records("PIF").values():
        if pif["host"] == master.ref and pif.get("management") and pif.get("ip_configuration_mode") == "DHCP":
            why = (
                f"the master {master.name} has its address {master.address} from DHCP: members look for it there, so it "
                f"must be reserved for {pif['MAC']}"
            )
            yield Found("host", master.uuid, master.name, why)


def _by_hand(at: Situation) -> Iterator[Found]:
    """Installers up to 5.0 do not carry network files over. Bonds were made by hand in 4.0."""
    if not at.crosses(4, 1) and not at.crosses(5, 0):
        return
    known = {bond["master"] for bond in at.records("Bond").values()}
    for host in at.facts.hosts.values():
        bonds = _hand_made(at, host, known)
        if bonds:
            why = f"{host.name} has bonds that were made by hand, which the installer drops: {', '.join(bonds)}"
            yield Found("host", host.uuid, host.name, why)
    why = f"the {at.target.name} installer drops network files and bonds that were made by hand: write them down first"
    yield Found("pool", at.facts.uuid, at.facts.name, why)


def _hand_made(at: Situation, host: HostFacts, known: set[str]) -> list[str]:
    return sorted(
        pif["device"]
        for ref, pif in at.records("PIF").items()
        if pif["host"] == host.ref and pif["device"].startswith("bond") and ref not in known
    )


CHECKS = (
    Check(
        *("unplugged", WARNS, "PBDs that are not plugged; they are not waited for when a host returns"),
        *("see to the storage and plug the PBD; --fix plugs those that guests use", _unplugged),
    ),
    Check(
        *("storage-paths", WARNS, "storage and boot disks on several paths, some of which are down"),
        *("see to cables, switches and the storage before a host restarts", _paths),
    ),
    Check(
        *("storage-reach", WARNS, "shared storage of guests that some host does not reach"),
        *("connect the host to the storage", _reach),
    ),
    Check(
        *("storage-gone", EITHER, "types of storage that the new release does not have, or soon will not"),
        *("move the disks, then detach the storage", _gone),
    ),
    Check(
        *("network-reach", WARNS, "networks of guests that some host is not on"),
        *("connect the host to the network", _networks),
    ),
    Check(
        *("master-address", WARNS, "whether the master's address is fixed"),
        *("reserve the address, or set it statically", _master_address),
    ),
    Check(
        *("network-files", WARNS, "network files and bonds that installers up to 5.0 lose"),
        *("write them down, and make them again after each host's upgrade", _by_hand),
    ),
)
