"""What every host of a pool keeps in files: certificates for guests' firmware, and binary objects."""

from __future__ import annotations

from collections.abc import Callable

from xenctl import datamodel

from .. import firmware, hosts
from ..call import Call, refuse
from . import host_files, verbs_of

verb = verbs_of("pool")

SYSTEMS_OWN = datamodel.load().order("22.16.0")
"""Since when `pool.uefi_certificates` is what systems come with, and not what an administrator wants."""
UEFI = ("host.uefi_certificates", "uefi_certificates")


@verb("custom_uefi_certificates", *UEFI)
def set_custom_uefi_certificates(call: Call, ref: str, value: str) -> str:
    """Every host writes them where guests' firmware looks; "" brings back what the systems came with."""
    if not firmware.allowed(call.db.release):
        text = "Setting UEFI certificates is not possible when allow_custom_uefi_certs is false"
        raise refuse("OPERATION_NOT_ALLOWED", text)
    call.db.write(call.db.get("pool", ref), custom_uefi_certificates=value)
    for host in list(call.db.table("host")):
        host_files.write_uefi_certificates_to_disk(call, host)
    return ""


@verb("uefi_certificates")
def set_uefi_certificates(call: Call, ref: str, value: str) -> str:
    """Always refused since the field says what systems come with."""
    if not call.at_least(SYSTEMS_OWN):
        call.db.write(call.db.get("pool", ref), uefi_certificates=value)
        return ""
    text = "Setting UEFI certificates is deprecated, please use `set_custom_uefi_certificates`"
    raise refuse("OPERATION_NOT_ALLOWED", text)


@verb("host.other_config")
def enable_binary_storage(call: Call) -> str:
    return _on_all(call, host_files.enable_binary_storage)


@verb("host.other_config", "message.*")
def disable_binary_storage(call: Call) -> str:
    return _on_all(call, host_files.disable_binary_storage)


def _on_all(call: Call, action: Callable[[Call, str], str]) -> str:
    """Members first; those that answer do it whatever becomes of others, and the first error is raised."""
    hosts.each(hosts.master_last(call), lambda host: action(call, host))
    return ""
