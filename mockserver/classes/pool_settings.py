"""Settings of the pool, some of which are written for each of its hosts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from urllib.parse import urlsplit

from xenctl.errors import Failure
from xenctl.values import format_datetime

from .. import hosts, pifs, repositories
from ..call import Call, Steps, refuse
from ..garbage import seconds
from ..passwords import make_secret
from ..store import NULL, Row
from . import host_settings, verbs_of
from .blob import attach_new
from .host_guests import tell_all_agents
from .pif import create_VLAN as create_vlan_on
from .pif import destroy as destroy_pif
from .vlan import create as create_vlan

verb = verbs_of("pool")

VLANS = ("PIF.*", "VLAN.*", "PIF_metrics.*")
CACHING = ("host.local_cache_sr", "SR.local_cache_enabled")
LATEST = {"daily": 2, "weekly": 14, "monthly": 62}
"""Days within which the next collection of telemetry must be, by how often there is one."""
DAY = 86400.0


def _is_web(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https")


AGENT_KEYS: dict[str, Callable[[str], bool]] = {
    "auto_update_enabled": lambda text: text in ("true", "false"),
    "auto_update_url": _is_web,
}
"""The keys that guests' agents are told, and what each may be."""


# --- what is told to guests' agents


@verb("guest_agent_config")
def add_to_guest_agent_config(call: Call, ref: str, key: str, value: str) -> str:
    row = call.db.get("pool", ref)
    if key not in AGENT_KEYS or not AGENT_KEYS[key](value):
        raise refuse("INVALID_VALUE", "guest_agent_config", f"{key} = {value}")
    if key in row["guest_agent_config"]:
        raise refuse("MAP_DUPLICATE_KEY", "pool", "guest_agent_config", ref, key)
    call.db.write(row, guest_agent_config={key: value, **row["guest_agent_config"]})
    tell_all_agents(call)
    return ""


@verb("guest_agent_config")
def remove_from_guest_agent_config(call: Call, ref: str, key: str) -> str:
    row = call.db.get("pool", ref)
    call.db.write(row, guest_agent_config={k: v for k, v in row["guest_agent_config"].items() if k != key})
    tell_all_agents(call)
    return ""


# --- VLANs on every host


@verb(*VLANS)
def create_VLAN(call: Call, device: str, network: str, VLAN: int) -> Steps:  # noqa: N803
    """One on each host, all or none."""
    made: list[str] = []
    try:
        for host in list(call.db.table("host")):
            new = yield from create_vlan_on(call, device, network, host, VLAN)
            made.append(new)
    except Failure:
        yield from _undone(call, made)
        raise
    _bring_up(call, made)
    return made


@verb(*VLANS)
def create_VLAN_from_PIF(call: Call, pif: str, network: str, VLAN: int) -> Steps:  # noqa: N803
    """One on each PIF that is on the network of `pif`, where its host lives; all or none."""
    found = call.db.get("network", call.db.get("PIF", pif)["network"])
    made: list[str] = []
    try:
        for base in [call.db.get("PIF", ref) for ref in found["PIFs"]]:
            if hosts.live(call.db, call.db.get("host", base["host"])):
                new = yield from create_vlan(call, base.ref, VLAN, network)
                vlan = call.db.find("VLAN", new)
                made.append(vlan["untagged_PIF"] if vlan is not None else new)
    except Failure:
        yield from _undone(call, made)
        raise
    _bring_up(call, made)
    return made


def _undone(call: Call, made: list[str]) -> Steps:
    for ref in made:
        with suppress(Failure):
            yield from destroy_pif(call, ref)


def _bring_up(call: Call, made: list[str]) -> None:
    for ref in made:
        with suppress(Failure):
            pifs.bring_up(call, call.db.get("PIF", ref))


# --- what every host is told


@verb("host.https_only")
def set_https_only(call: Call, ref: str, value: bool) -> str:
    call.db.get("pool", ref)
    for host in list(call.db.table("host")):
        host_settings.set_https_only(call, host, value)
    return ""


@verb(*CACHING)
def enable_local_storage_caching(call: Call, ref: str) -> str:
    """On each host, on storage that only it has and that can; the hosts where it failed are named, the others keep it."""
    call.db.get("pool", ref)
    failed = [host for host in list(call.db.table("host").values()) if not _caches(call, host)]
    if failed:
        raise refuse("HOSTS_FAILED_TO_ENABLE_CACHING", *(host.ref for host in failed))
    return ""


def _caches(call: Call, host: Row) -> bool:
    done = False
    for pbd in (call.db.get("PBD", ref) for ref in host["PBDs"]):
        with suppress(Failure):
            host_settings.enable_local_storage_caching(call, host.ref, pbd["SR"])
            done = True
    return done


@verb(*CACHING)
def disable_local_storage_caching(call: Call, ref: str) -> str:
    call.db.get("pool", ref)
    failed = []
    for host in list(call.db.table("host")):
        try:
            host_settings.disable_local_storage_caching(call, host)
        except Failure:
            failed.append(host)
    if failed:
        raise refuse("HOSTS_FAILED_TO_DISABLE_CACHING", *failed)
    return ""


@verb()
def has_extension(call: Call, ref: str, name: str) -> bool:
    """Whether every host has it."""
    call.db.get("pool", ref)
    return all(host_settings.has_extension(call, host, name) for host in list(call.db.table("host")))


# --- updates and telemetry


@verb("repository_proxy_url", "repository_proxy_username", "repository_proxy_password", "secret.*")
def configure_repository_proxy(call: Call, ref: str, url: str, username: str, password: str) -> str:
    """The password is kept as a secret; the one before is destroyed."""
    row = call.db.get("pool", ref)
    if not _is_web(url):
        raise refuse("INVALID_REPOSITORY_PROXY_URL", url)
    if bool(username) != bool(password) or "\n" in username + password:
        raise refuse("INVALID_REPOSITORY_PROXY_CREDENTIAL")
    _set_proxy(call, row, url, username, password)
    return ""


@verb("repository_proxy_url", "repository_proxy_username", "repository_proxy_password", "secret.*")
def disable_repository_proxy(call: Call, ref: str) -> str:
    _set_proxy(call, call.db.get("pool", ref), "", "", "")
    return ""


def _set_proxy(call: Call, pool: Row, url: str, username: str, password: str) -> None:
    secret = make_secret(call, password).ref if password else NULL
    _replace_secret(call, pool, "repository_proxy_password", secret)
    call.db.write(pool, repository_proxy_url=url, repository_proxy_username=username)


def _replace_secret(call: Call, pool: Row, field: str, secret: str) -> None:
    before = call.db.find("secret", pool[field])
    call.db.write(pool, **{field: secret})
    if before is not None:
        call.db.delete(before)


@verb("update_sync_frequency", "update_sync_day")
def configure_update_sync(call: Call, ref: str, frequency: str, day: int) -> str:
    """When updates are looked for: each day, or on a day of the week, Sunday being 0."""
    row = call.db.get("pool", ref)
    if frequency == "weekly" and day not in range(7):
        raise refuse("INVALID_UPDATE_SYNC_DAY", day)
    call.db.write(row, update_sync_frequency=frequency, update_sync_day=day if frequency == "weekly" else 0)
    repositories.reschedule(call.pool)
    return ""


@verb("telemetry_next_collection")
def set_telemetry_next_collection(call: Call, ref: str, value: str | datetime) -> str:
    row = call.db.get("pool", ref)
    stamp = format_datetime(value) if isinstance(value, datetime) else value
    if seconds(stamp) > call.clock.now() + LATEST[row["telemetry_frequency"]] * DAY:
        raise refuse("TELEMETRY_NEXT_COLLECTION_TOO_LATE", stamp)
    call.db.write(row, telemetry_next_collection=stamp)
    return ""


@verb("telemetry_uuid", "secret.*")
def reset_telemetry_uuid(call: Call, ref: str) -> str:
    """A new identity, kept as a secret in the place of the one before."""
    row = call.db.get("pool", ref)
    _replace_secret(call, row, "telemetry_uuid", make_secret(call, call.pool.new_uuid()).ref)
    return ""


# --- the rest


@verb("client_certificate_auth_enabled", "client_certificate_auth_name")
def enable_client_certificate_auth(call: Call, ref: str, name: str) -> str:
    call.db.write(call.db.get("pool", ref), client_certificate_auth_enabled=True, client_certificate_auth_name=name)
    return ""


@verb("client_certificate_auth_enabled", "client_certificate_auth_name")
def disable_client_certificate_auth(call: Call, ref: str) -> str:
    call.db.write(call.db.get("pool", ref), client_certificate_auth_enabled=False, client_certificate_auth_name="")
    return ""


@verb("blobs", "blob.*")
def create_new_blob(call: Call, pool: str, name: str, mime_type: str, public: bool) -> str:
    return attach_new(call, call.db.get("pool", pool), name, mime_type, public=public)
