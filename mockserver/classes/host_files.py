"""What one host keeps in files: certificates for guests' firmware, and binary objects."""

from __future__ import annotations

from .. import firmware, hosts
from ..call import Call, refuse
from ..hosts import NO_STORAGE
from . import verbs_of

verb = verbs_of("host")


@verb("uefi_certificates", "pool.uefi_certificates")
def write_uefi_certificates_to_disk(call: Call, host: str) -> str:
    firmware.write(call.pool, hosts.reached(call, host).machine)
    return ""


@verb("uefi_certificates", "pool.uefi_certificates")
def set_uefi_certificates(call: Call, host: str, value: str) -> str:
    """What is set for a host is the pool's too; since 8.3 it is the pool alone that may have some."""
    if "custom_uefi_certificates" in call.db.shape("pool").fields:
        text = "To set UEFI certificates use: `Pool.set_custom_uefi_certificates`"
        raise refuse("OPERATION_NOT_ALLOWED", text)
    call.db.write(call.db.get("host", host), uefi_certificates=value)
    if value:
        call.db.write(call.db.pool(), uefi_certificates=value)
    return ""


@verb("other_config")
def enable_binary_storage(call: Call, host: str) -> str:
    hosts.reached(call, host)
    row = call.db.get("host", host)
    call.db.write(row, other_config={k: v for k, v in row["other_config"].items() if k != NO_STORAGE})
    return ""


@verb("other_config", "message.*")
def disable_binary_storage(call: Call, host: str) -> str:
    """What the host keeps is deleted: on the master that is what blobs hold, and all messages."""
    machine, pool = hosts.reached(call, host).machine, call.pool
    row = call.db.get("host", host)
    if machine.system.role == "master":
        pool.blobs.clear()
        for message in list(pool.messages.newest_first()):
            pool.messages.drop(call.db, message)
    call.db.write(row, other_config={**row["other_config"], NO_STORAGE: "true"})
    return ""
