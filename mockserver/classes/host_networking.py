"""A host's network as its own toolstack and `xe host-*` repair it: reset, and brought into line with the master's."""

from __future__ import annotations

from .. import hosts, pifs
from ..call import Call
from ..store import Row
from . import tunnel, verbs_of, vlan

verb = verbs_of("host")

BUILT = ("PIF.*", "PIF_metrics.*")


def _pifs(call: Call, host: Row) -> list[Row]:
    return [pif for pif in (call.db.find("PIF", ref) for ref in host["PIFs"]) if pif is not None]


@verb(*BUILT, "Bond.*", "VLAN.*", "tunnel.*", "network_sriov.*")
def reset_networking(call: Call, host: str) -> str:
    """Forget every interface of a host, and what is built on them. Nothing changes on the host before it starts anew."""
    own = _pifs(call, call.db.get("host", host))
    mine = {pif.ref for pif in own}
    for table, field in (
        ("Bond", "master"),
        ("VLAN", "untagged_PIF"),
        ("tunnel", "access_PIF"),
        ("network_sriov", "physical_PIF"),
    ):
        for row in [row for row in call.db.table(table).values() if row[field] in mine]:
            call.db.delete(row)
    for pif in own:
        pifs.drop(call, pif)
    return ""


@verb("address", "PIF.IP", "console.location")
def signal_networking_change(call: Call) -> str:
    """The host looks at its own address, and writes down what changed. One that is in emergency mode has nowhere to."""
    row = call.pool.host_row(call.machine) if call.machine.xapi.mode in ("master", "member") else None
    if row is None:
        return ""
    hosts.readdress(call.db, row, call.machine.address)
    for pif in _pifs(call, row):
        if pif.get("management"):
            call.db.write(pif, IP=call.machine.address)
    return ""


# --- what a member asks the master for when it starts


@verb("PIF.currently_attached")
def sync_pif_currently_attached(call: Call, host: str, bridges: list[str]) -> str:
    """An interface is attached if the host has the bridge of its network; virtual functions have none."""
    for pif in _pifs(call, call.db.get("host", host)):
        if not pifs.on_sriov(call.db, pif):
            network = call.db.find("network", pif["network"])
            call.db.write(pif, currently_attached=network is not None and network["bridge"] in bridges)
    return ""


def _beneath(call: Call, pif: Row) -> str:
    """The network of the PIF that a VLAN or tunnel is built on."""
    below = pifs.beneath(call.db, pif)
    return str(below["network"]) if below is not None else ""


def _missing(call: Call, host: str, kind: str) -> list[tuple[Row, Row]]:
    """The master's PIFs of a kind that `host` has no counterpart of, each with the PIF of `host` to build it on."""
    theirs = [pif for pif in _pifs(call, call.db.get("host", host)) if pifs.kind(call.db, pif) == kind]
    known = {(pif["network"], pif["VLAN"], _beneath(call, pif)) for pif in theirs}
    out = []
    for pif in _pifs(call, call.db.get("host", call.db.pool()["master"])):
        below = _beneath(call, pif)
        if pifs.kind(call.db, pif) == kind and below and (pif["network"], pif["VLAN"], below) not in known:
            out += [(pif, base) for base in pifs.local(call.db, host, below)[:1]]
    return out


@verb(*BUILT, "VLAN.*")
def sync_vlans(call: Call, host: str) -> str:
    """Give a host the VLANs that the master has, not attached yet."""
    for pif, base in _missing(call, host, "vlan"):
        vlan.create_on(call, base, pif["VLAN"], call.db.get("network", pif["network"]))
    return ""


@verb(*BUILT, "tunnel.*")
def sync_tunnels(call: Call, host: str) -> str:
    """Give a host the tunnels that the master has, not attached yet."""
    for pif, base in _missing(call, host, "tunnel"):
        protocol = call.db.get("tunnel", pif["tunnel_access_PIF_of"][0]).get("protocol", "gre")
        tunnel.create_on(call, base, call.db.get("network", pif["network"]), protocol)
    return ""
