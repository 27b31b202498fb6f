"""What is done with the content of disks: snapshots, clones, copies, moves, tracking of changes."""

from __future__ import annotations

import base64

from .. import storage_rules, vdis, volumes
from ..call import Call, Steps, refuse
from ..licence import assert_enabled
from ..machine.disks import BLOCK_SIZE
from ..store import Row
from ..vdis import sr_of
from . import verbs_of

verb = verbs_of("VDI")


# --- snapshots, clones, copies


@verb("*", *volumes.MARKS)
def snapshot(call: Call, vdi: str, driver_params: dict[str, str]) -> Steps:
    new = yield from vdis.snapshot(call, call.db.get("VDI", vdi))
    return new.ref


@verb("*", *volumes.MARKS, *volumes.ATTACHED)
def clone(call: Call, vdi: str, driver_params: dict[str, str]) -> Steps:
    new = yield from vdis.clone(call, call.db.get("VDI", vdi))
    return new.ref


@verb("*", *volumes.MARKS, *volumes.ATTACHED)
def copy(call: Call, vdi: str, sr: str, base_vdi: str, into_vdi: str) -> Steps:
    """Onto a new disk on `sr`, or into one that is there."""
    row, into = call.db.get("VDI", vdi), call.db.find("VDI", into_vdi)
    target = sr_of(call, into) if into is not None else call.db.get("SR", sr)
    new = yield from vdis.copy(call, row, target, into=into, base=call.db.find("VDI", base_vdi))
    return new.ref


# --- changed blocks


@verb("cbt_enabled", *volumes.MARKS)
def enable_cbt(call: Call, ref: str) -> str:
    return _set_cbt(call, ref, "enable_cbt", value=True)


@verb("cbt_enabled", *volumes.MARKS)
def disable_cbt(call: Call, ref: str) -> str:
    return _set_cbt(call, ref, "disable_cbt", value=False)


def _set_cbt(call: Call, ref: str, name: str, *, value: bool) -> str:
    row = call.db.get("VDI", ref)
    sr = sr_of(call, row)
    with volumes.held(call, sr=(sr, f"vdi_{name}"), vdi=(row, name)):
        volumes.serving(call, sr)
        if value:
            assert_enabled(call, "CBT")
        call.db.write(row, cbt_enabled=value)
    return ""


@verb(*volumes.MARKS)
def list_changed_blocks(call: Call, vdi_from: str, vdi_to: str) -> str:
    """A bitmap in base64, a bit for each 64 KiB, the first in the highest bit: set where the two differ."""
    old, new = call.db.get("VDI", vdi_from), call.db.get("VDI", vdi_to)
    sr = sr_of(call, new)
    with volumes.held(call, sr=(sr, "vdi_list_changed_blocks"), vdi=(new, "list_changed_blocks")):
        volumes.serving(call, sr)
        if not (old["cbt_enabled"] and new["cbt_enabled"]) or old["SR"] != new["SR"]:
            raise refuse("SR_BACKEND_FAILURE_460", "", "Failed to calculate changed blocks for given VDIs.", "")
        before, after = volumes.content(call, old).digests(), volumes.content(call, new).digests()
        bits = bytearray(-(-new["virtual_size"] // (8 * BLOCK_SIZE)))
        for number in {*before, *after}:
            if before.get(number) != after.get(number) and number // 8 < len(bits):
                bits[number // 8] |= 0x80 >> number % 8
    return base64.b64encode(bytes(bits)).decode()


# --- looking at it


@verb()
def checksum(call: Call, ref: str) -> str:
    """A digest of the content: the same for disks with the same bytes."""
    row = call.db.get("VDI", ref)
    if volumes.seeing(call, (sr_of(call, row),)) is None:
        raise refuse("NO_HOSTS_AVAILABLE")
    return volumes.content(call, row).digest()[:32]


@verb()
def get_nbd_info(call: Call, ref: str) -> list[dict[str, object]]:
    """Where the content can be read from: the addresses of hosts with the storage plugged, in networks for that."""
    row = call.db.get("VDI", ref)
    if row["type"] == "cbt_metadata":
        raise storage_rules.wrong_type(row)
    networks = {
        network.ref
        for network in call.db.table("network").values()
        if {"nbd", "insecure_nbd"} & set(network.get("purpose", ()))
    }
    pbds = storage_rules.pbds_of(call.db, sr_of(call, row))
    plugged = (call.db.find("host", pbd["host"]) for pbd in pbds if pbd["currently_attached"])
    told = {"exportname": f"/{row['uuid']}?session_id={call.caller}", "port": 10809, "cert": ""}
    return [
        {**told, "address": address, "subject": host["hostname"]}
        for host in plugged
        if host is not None
        for address in _addresses(call, host, networks)
    ]


def _addresses(call: Call, host: Row, networks: set[str]) -> list[str]:
    pifs = [pif for pif in (call.db.find("PIF", ref) for ref in host["PIFs"]) if pif is not None]
    inside = [pif for pif in pifs if pif["currently_attached"] and pif["network"] in networks]
    return [address for pif in inside for address in (pif["IP"], *pif.get("IPv6", ())) if address]
