"""Settings of hosts: what is written for a host, and done there, when somebody changes how it works."""

from __future__ import annotations

from typing import Any

from .. import hosts, passwords, rules
from ..call import Call, refuse
from ..licence import restricted
from ..storage_drivers import capabilities
from ..storage_rules import pbds_of
from ..store import NULL, Row
from . import verbs_of
from .blob import attach_new

verb = verbs_of("host")

HOSTNAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
LONGEST_HOSTNAME = 255
DOM0 = "Control domain on host: "
"""How the name of a control domain begins, as long as nobody gave it another."""
DISPLAY = {
    "enable": {"disable_on_reboot": "enabled", "disabled": "enable_on_reboot"},
    "disable": {"enabled": "disable_on_reboot", "enable_on_reboot": "disabled"},
}
"""What `host.display` becomes, by what is asked and what it was; else it stays."""


# --- storage


def _mirrored(call: Call, ref: str, field: str, value: Any, text: str) -> str:
    """Write a field that has an older spelling in `other_config`."""
    row = hosts.reached(call, ref).host
    call.db.write(row, **{field: value}, other_config={**row["other_config"], field: text})
    return ""


@verb("iscsi_iqn", "other_config")
def set_iscsi_iqn(call: Call, host: str, value: str) -> str:
    if not value:
        raise refuse("INVALID_VALUE", "value", value)
    return _mirrored(call, host, "iscsi_iqn", value, value)


@verb("multipathing", "other_config")
def set_multipathing(call: Call, host: str, value: bool) -> str:
    return _mirrored(call, host, "multipathing", value, "true" if value else "false")


@verb("local_cache_sr", "SR.local_cache_enabled")
def enable_local_storage_caching(call: Call, host: str, sr: str) -> str:
    """From now on the host keeps what it reads of shared disks on `sr`, which nobody else has."""
    row, cache = hosts.reached(call, host).host, call.db.get("SR", sr)
    hosts.assert_out_of_use(call.db, row)
    pbds = pbds_of(call.db, cache)
    if cache["shared"] or len(pbds) != 1 or "SR_SUPPORTS_LOCAL_CACHING" not in capabilities(call.db, cache["type"]):
        raise refuse("SR_OPERATION_NOT_SUPPORTED")
    if pbds[0]["host"] != host:
        raise refuse("HOST_CANNOT_SEE_SR", host, sr)
    _stop_caching(call, row)
    call.db.write(row, local_cache_sr=sr)
    call.db.write(cache, local_cache_enabled=True)
    return ""


@verb("local_cache_sr", "SR.local_cache_enabled")
def disable_local_storage_caching(call: Call, host: str) -> str:
    row = hosts.reached(call, host).host
    hosts.assert_out_of_use(call.db, row)
    _stop_caching(call, row)
    return ""


def _stop_caching(call: Call, host: Row) -> None:
    before = call.db.find("SR", host["local_cache_sr"])
    call.db.write(host, local_cache_sr=NULL)
    if before is not None:
        call.db.write(before, local_cache_enabled=False)


# --- names and power


@verb("hostname", "VM.name_label")
def set_hostname_live(call: Call, host: str, hostname: str) -> str:
    """The control domain is called after the host, unless somebody gave it another name. A host that is in a domain keeps
    its name since 5.6."""
    row = hosts.reached(call, host).host
    if row.get("external_auth_type") == "AD" and call.at_least(rules.MIDNIGHT_RIDE):
        raise refuse("AUTH_ALREADY_ENABLED", row["external_auth_type"], row["external_auth_service_name"])
    if not hostname:
        raise refuse("HOST_NAME_INVALID", "hostname empty")
    if len(hostname) > LONGEST_HOSTNAME:
        raise refuse("HOST_NAME_INVALID", "hostname is too long")
    if not HOSTNAME.issuperset(hostname) or hostname[0] == "-" or hostname[-1] == "-":
        raise refuse("HOST_NAME_INVALID", "hostname contains invalid characters")
    call.db.write(row, hostname=hostname)
    for vm in (call.db.get("VM", ref) for ref in row["resident_VMs"]):
        if vm["is_control_domain"] and vm["domid"] == 0 and vm["name_label"].startswith(DOM0):
            call.db.write(vm, name_label=DOM0 + hostname)
    return ""


@verb("power_on_mode", "power_on_config", "secret.*")
def set_power_on_mode(call: Call, ref: str, power_on_mode: str, power_on_config: dict[str, str]) -> str:
    """How the host is switched on from afar; secrets of the way before are destroyed."""
    row = call.db.get("host", ref)
    before = dict(row["power_on_config"])
    call.db.write(row, power_on_mode=power_on_mode, power_on_config=power_on_config)
    passwords.clean_out(call, before)
    return ""


# --- the rest


@verb("display")
def enable_display(call: Call, host: str) -> str:
    return _display(call, host, "enable")


@verb("display")
def disable_display(call: Call, host: str) -> str:
    if restricted(call, "Integrated_GPU"):
        raise refuse("FEATURE_RESTRICTED")
    return _display(call, host, "disable")


def _display(call: Call, host: str, action: str) -> str:
    row = hosts.reached(call, host).host
    call.db.write(row, display=DISPLAY[action].get(row["display"], row["display"]))
    return str(row["display"])


@verb("https_only")
def set_https_only(call: Call, ref: str, value: bool) -> str:
    call.db.write(hosts.reached(call, ref).host, https_only=value)
    return ""


@verb("numa_affinity_policy")
def set_numa_affinity_policy(call: Call, ref: str, value: str) -> str:
    call.db.write(hosts.reached(call, ref).host, numa_affinity_policy=value)
    return ""


@verb("blobs", "blob.*")
def create_new_blob(call: Call, host: str, name: str, mime_type: str, public: bool) -> str:
    return attach_new(call, call.db.get("host", host), name, mime_type, public=public)


@verb()
def get_management_interface(call: Call, host: str) -> str:
    """The PIF that the host is managed by."""
    for pif in call.db.table("PIF").values():
        if pif["host"] == host and pif["management"]:
            return pif.ref
    raise refuse("INTERNAL_ERROR", "Not_found")


@verb()
def has_extension(call: Call, host: str, name: str) -> bool:
    """Whether it is among those of the pool, which every host has."""
    hosts.reached(call, host)
    return name in call.pool.extensions
