"""Storage repositories: made, introduced, looked through, forgotten and destroyed."""

from __future__ import annotations

from typing import Any

from xenctl.errors import Failure

from .. import ha_disks, hosts, passthrough, passwords, rules, volumes
from ..call import Call, Steps, refuse
from ..data_sources import unknown
from ..storage_drivers import capabilities, supported_types
from ..storage_rules import pbds_of
from ..store import Row
from . import verbs_of
from .pbd import connect, plug_in

verb = verbs_of("SR")

SIZES = ("physical_size", "physical_utilisation", "virtual_allocation")
DEFAULT_SIZE = volumes.UNKNOWN_SIZE
"""Bytes of a new storage repository whose maker names no size."""


# --- making


@verb("*", "PBD.*", "secret.*", "VDI.*")
def create(
    call: Call,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> Steps:
    """On every host where it is shared, the master's first, else on the one named."""
    kind, db = kind.lower(), call.db
    there = db.get("host", db.pool()["master"] if shared else host)
    contact = hosts.contact(call.pool, there)
    if call.at_least(rules.BOSTON) and rules.upgrading(db):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    _assert_known(call, kind)
    passwords.assert_not_reserved(call, device_config)
    config = passwords.to_secrets(call, device_config)
    others = [row for row in db.table("host").values() if row is not there] if shared else []
    sr = _introduce(call, call.pool.new_uuid(), name_label, name_description, kind, content_type, shared, sm_config)
    pbds = [connect(call, sr, row, config) for row in (there, *others)]
    made = False
    try:
        yield call.pool.durations.volume
        contact.check()
        made = True
    finally:
        if not made:
            _drop(call, sr)
    size = 0 if content_type == "iso" or kind == "iso" else physical_size if physical_size > 0 else DEFAULT_SIZE
    call.pool.storage.sizes[sr["uuid"]] = size
    for pbd in pbds:
        yield from _plugged_if_it_can(call, pbd)
    return sr.ref


def _assert_known(call: Call, kind: str) -> None:
    """Raise for a type of storage that no plugin is for."""
    if kind not in supported_types(call.db):
        raise refuse("SR_UNKNOWN_DRIVER", kind)


def _plugged_if_it_can(call: Call, pbd: Row) -> Steps:
    """A host that does not answer is left out, as one that comes up later plugs by itself."""
    try:
        yield from plug_in(call, pbd)
    except Failure as error:
        if error.code not in ("CANNOT_CONTACT_HOST", "HOST_OFFLINE"):
            raise


def _introduce(
    call: Call, uuid: str, label: str, text: str, kind: str, content: str, shared: bool, sm_config: dict[str, str]
) -> Row:
    fields = {
        "uuid": uuid,
        "name_label": label,
        "name_description": text,
        "type": kind,
        "content_type": content,
        "shared": shared,
        "sm_config": sm_config,
        "physical_size": -1,
        "physical_utilisation": -1,
        "virtual_allocation": 0,
        "other_config": {},
        "default_vdi_visibility": True,
    }
    return call.db.create("SR", call.pool.new_ref(), fields)


@verb("*")
def introduce(
    call: Call, uuid: str, label: str, text: str, kind: str, content: str, shared: bool, sm_config: dict[str, str]
) -> str:
    """Only the row: what is on it shows once it is plugged and scanned. Since 6.1 nobody asks for its plugin yet."""
    kind = kind.lower()
    if not call.at_least(rules.TAMPA):
        _assert_known(call, kind)
    uuid = uuid or call.pool.new_uuid()
    if uuid in call.db.by_uuid and call.at_least(rules.CREAM):
        raise refuse("SR_UUID_EXISTS", uuid)
    return _introduce(call, uuid, label, text, kind, content, shared, sm_config).ref


@verb()
def make(
    call: Call,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    sm_config: dict[str, str],
) -> str:
    raise refuse("MESSAGE_DEPRECATED")


# --- going


def _assert_unplugged(call: Call, sr: Row) -> None:
    if any(pbd["currently_attached"] for pbd in pbds_of(call.db, sr)):
        raise refuse("SR_HAS_PBD", sr.ref)


def _drop(call: Call, sr: Row) -> None:
    """Drop the rows of a storage repository, of its connections and its disks."""
    for pbd in pbds_of(call.db, sr):
        passwords.clean_out(call, pbd["device_config"])
        call.db.delete(pbd)
    for vdi in [call.db.find("VDI", ref) for ref in sr["VDIs"]]:
        if vdi is not None:
            volumes.forget(call, vdi)
    call.db.delete(sr)


@verb("*", "PBD.*", "secret.*", *volumes.GONE)
def forget(call: Call, ref: str) -> str:
    row = call.db.get("SR", ref)
    with volumes.held(call, sr=(row, "forget")):
        _assert_unplugged(call, row)
        _remember(call, row)
        _drop(call, row)
    return ""


def _remember(call: Call, sr: Row) -> None:
    if sr["physical_size"] >= 0:
        call.pool.storage.sizes.setdefault(sr["uuid"], sr["physical_size"])


@verb("*", "PBD.*", "secret.*", *volumes.GONE)
def destroy(call: Call, ref: str) -> Steps:
    row = call.db.get("SR", ref)
    with volumes.held(call, sr=(row, "destroy")):
        _assert_unplugged(call, row)
        if row["other_config"].get("indestructible") == "true" and call.at_least(rules.MIDNIGHT_RIDE):
            raise refuse("SR_INDESTRUCTIBLE", ref)
        for host in call.db.table("host").values():
            if host.get("local_cache_sr") == ref and call.at_least(rules.CREAM):
                raise refuse("SR_IS_CACHE_SR", host.ref)
        contact = volumes.serving(call, row, unplugged=True)
        _assert_empty(call, row)
        yield call.pool.durations.volume
        contact.check()
        passwords.clean_out(call, row.get("sm_config", {}))
        for vdi in row["VDIs"]:
            call.pool.disks.pop(call.db.get("VDI", vdi)["uuid"], None)
        _drop(call, row)
        call.pool.storage.destroy(row["uuid"])
    return ""


def _assert_empty(call: Call, sr: Row) -> None:
    """What the plugin asks, where the release does not ask before."""
    for vdi in (call.db.find("VDI", ref) for ref in sr["VDIs"]):
        if vdi is not None and vdi["managed"] and vdi["type"] != "rrd":
            raise refuse("SR_NOT_EMPTY")


# --- looking


@verb("*", *volumes.GONE)
def scan(call: Call, ref: str) -> Steps:
    """Disks that storage has lost go, those that were forgotten come back, and sizes are looked up."""
    row = call.db.get("SR", ref)
    with volumes.held(call, sr=(row, "scan")):
        contact = volumes.serving(call, row)
        yield call.pool.durations.scan
        contact.check()
        for vdi in [call.db.find("VDI", vdi) for vdi in row["VDIs"]]:
            if vdi is not None and vdi["uuid"] not in call.pool.disks:
                volumes.forget(call, vdi)
        for uuid, fields in volumes.on_storage(call, row).items():
            given_away = passthrough.given_away(call.db, row, fields.get("sm_config", {}).get("usb_path", ""))
            if uuid in call.pool.disks and uuid not in call.db.by_uuid and not given_away:
                volumes.found_again(call, row, uuid, fields)
        volumes.measure(call, row)
        clean = {key: value for key, value in row["other_config"].items() if key != "dirty"}
        call.db.write(row, other_config=clean)
    return ""


@verb(*SIZES)
def update(call: Call, ref: str) -> str:
    row = call.db.get("SR", ref)
    volumes.serving(call, row)
    volumes.measure(call, row)
    return ""


@verb()
def get_supported_types(call: Call) -> list[str]:
    return supported_types(call.db)


@verb()
def probe(call: Call, host: str, device_config: dict[str, str], kind: str, sm_config: dict[str, str]) -> str:
    """What storage of a type is found behind a configuration, as the document that plugins give."""
    _assert_probes(call, host, kind.lower())
    wanted = {key: value for key, value in device_config.items() if not key.endswith("password")}
    found = []
    for store in [call.db, *(pool.store for pool in call.pool.world.pools if pool is not call.pool)]:
        for sr in store.table("SR").values():
            configs = [pbd["device_config"] for pbd in pbds_of(store, sr)]
            if sr["type"] == kind.lower() and any(wanted.items() <= config.items() for config in configs):
                found.append(f"\t<SR>\n\t\t<UUID>\n\t\t\t{sr['uuid']}\n\t\t</UUID>\n\t</SR>\n")
    return f'<?xml version="1.0" ?>\n<SRlist>\n{"".join(dict.fromkeys(found))}</SRlist>\n'


def _assert_probes(call: Call, host: str, kind: str) -> None:
    hosts.reached(call, host)
    _assert_known(call, kind)
    if "SR_PROBE" not in capabilities(call.db, kind):
        raise refuse("UNIMPLEMENTED_IN_SM_BACKEND", "SR.probe")


@verb()
def probe_ext(call: Call, host: str, device_config: dict[str, str], kind: str, sm_config: dict[str, str]) -> Any:
    """Plugins of the first kind, which all are here, answer in their own words only, not as records."""
    _assert_probes(call, host, kind.lower())
    raise refuse("SR_OPERATION_NOT_SUPPORTED")


@verb()
def get_live_hosts(call: Call, ref: str) -> list[str]:
    """The hosts that could run something on it: live, enabled, with it plugged."""
    row = call.db.get("SR", ref)
    plugged = {pbd["host"] for pbd in pbds_of(call.db, row) if pbd["currently_attached"]}
    return [
        host.ref
        for host in call.db.table("host").values()
        if host.ref in plugged
        and host["enabled"]
        and hosts.live(call.db, host)
        and not rules.placing_refused(call.db, host)
    ]


@verb()
def get_data_sources(call: Call, ref: str) -> list[Any]:
    """None: no plugin here measures."""
    volumes.serving(call, call.db.get("SR", ref))
    return []


def _unmeasured(message: str) -> None:
    def refuse_it(call: Call, ref: str, data_source: str) -> None:
        volumes.serving(call, call.db.get("SR", ref))
        raise unknown(data_source)

    refuse_it.__name__ = message
    verb()(refuse_it)


for _message in ("record_data_source", "query_data_source", "forget_data_source_archives"):
    _unmeasured(_message)


# --- changing


@verb("shared")
def set_shared(call: Call, ref: str, value: bool) -> str:
    row = call.db.get("SR", ref)
    pbds = pbds_of(call.db, row)
    if not value and len(pbds) > 1:
        raise refuse("SR_HAS_MULTIPLE_PBDS", *(pbd.ref for pbd in pbds))
    call.db.write(row, shared=value)
    return ""


def _named(field: str) -> None:
    def set_name(call: Call, ref: str, value: str) -> str:
        row = call.db.get("SR", ref)
        if volumes.reaches_backend(call):
            volumes.serving(call, row)
        call.db.write(row, **{field: value})
        return ""

    set_name.__name__ = f"set_{field}"
    verb(field)(set_name)


def _told_by_plugin(field: str) -> None:
    def set_size(call: Call, ref: str, value: int) -> str:
        row = call.db.get("SR", ref)
        volumes.assert_from_plugin(call, ref)
        if field == "physical_size":
            call.pool.storage.sizes[row["uuid"]] = value
        call.db.write(row, **{field: value})
        return ""

    set_size.__name__ = f"set_{field}"
    verb(field)(set_size)


for _field in ("name_label", "name_description"):
    _named(_field)
for _field in SIZES:
    _told_by_plugin(_field)


@verb("blobs", "blob.*")
def create_new_blob(call: Call, ref: str, name: str, mime_type: str, public: bool) -> str:
    from .blob import make_blob

    row = call.db.get("SR", ref)
    if name in row["blobs"]:
        raise refuse("MAP_DUPLICATE_KEY", "SR", "blobs", ref, name)
    blob = make_blob(call, mime_type, public)
    call.db.write(row, blobs={name: blob, **row["blobs"]})
    return blob


# --- what it is good for


@verb()
def assert_can_host_ha_statefile(call: Call, ref: str) -> str:
    ha_disks.assert_can_host(call, call.db.get("SR", ref))
    return ""
