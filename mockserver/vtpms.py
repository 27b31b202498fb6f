"""Virtual TPMs: what a guest keeps in one, in a secret of its own; what copies of a VM get of it, and what goes with it.

A guest that is started with an empty one makes its contents, as the emulator does; they are never changed again.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import load

from . import checks
from .call import Call, refuse
from .vm_rules import is_true

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pool import MockPool
    from .store import Row, Store

SINCE = load().order("22.26.0")
"""The toolstack's version since which there are any."""
TRAITS = ("is_unique", "is_protected")
PREFIX = "vTPM'_"
"""What is before the names of the members of a record in an archive."""
RESTRICTION = "restrict_vtpm"
HOLDS = ("VTPM.*", "secret.*")
"""What a start, which makes one where the platform says so, or its contents, may write."""


def allowed_operations(store: Store, vtpm: Row) -> list[str] | None:
    """What may be done to one."""
    vm = store.find("VM", vtpm["VM"])
    if vm is None or store.release.order < SINCE:
        return None
    return ["destroy"] if vm["power_state"] == "Halted" else []


def assert_may_have(store: Store, vm: Row) -> None:
    """Raise where `vm` cannot have another one."""
    if store.pool().get("restrictions", {}).get(RESTRICTION) != "false":
        raise refuse("FEATURE_RESTRICTED", RESTRICTION)
    if vm["VTPMs"]:
        raise refuse("VTPM_MAX_AMOUNT_REACHED", len(vm["VTPMs"]))


def make(pool: MockPool, vm: str, *, contents: str = "", **more: Any) -> Row:
    """One for a VM, with `contents` in base64."""
    kept = pool.store.create("secret", pool.new_ref(), {"uuid": pool.new_uuid(), "value": contents})
    return pool.store.create("VTPM", pool.new_ref(), {"uuid": pool.new_uuid(), "VM": vm, "contents": kept.ref, **more})


def contents(store: Store, vtpm: Row) -> str:
    """What is in it, in base64; nothing before its guest was started."""
    kept = store.find("secret", vtpm.get("contents", ""))
    return str(kept["value"]) if kept is not None else ""


def fill(pool: MockPool, vtpm: Row, value: str) -> None:
    """Have other contents in it, as a secret of their own."""
    store, old = pool.store, pool.store.find("secret", vtpm["contents"])
    kept = store.create("secret", pool.new_ref(), {"uuid": pool.new_uuid(), "value": value})
    store.write(vtpm, contents=kept.ref)
    if old is not None:
        store.delete(old)


def copy_all(pool: MockPool, source: Row, vm: Row) -> None:
    """Those of `source` for its copy `vm`: their contents, too, unless they are said to be unique."""
    store = pool.store
    for vtpm in store.rows("VTPM", source.get("VTPMs", ())):
        unique = vtpm.get("is_unique", False)
        make(pool, vm.ref, contents="" if unique else contents(store, vtpm), is_unique=unique)


def erase(store: Store, vtpm: Row) -> None:
    """Drop one with its contents."""
    kept = store.find("secret", vtpm.get("contents", ""))
    if kept is not None:
        store.delete(kept)
    store.delete(vtpm)


def record(store: Store, vtpm: Row, vm: str) -> dict[str, Any]:
    """What an archive tells of one: its contents, too."""
    fields = {"VM": vm, "uuid": vtpm["uuid"], **{name: vtpm[name] for name in TRAITS}, "content": contents(store, vtpm)}
    return {f"{PREFIX}{name}": value for name, value in fields.items()}


def told(wire: Mapping[str, Any]) -> dict[str, Any]:
    """The same record, read. Raises `IMPORT_ERROR_GENERIC` where something is missing."""
    names = ("VM", "uuid", *TRAITS, "content")
    missing = [f"{PREFIX}{name}" for name in names if f"{PREFIX}{name}" not in wire]
    if missing:
        raise refuse("IMPORT_ERROR_GENERIC", f"A VTPM without {', '.join(missing)}")
    return {name: wire[f"{PREFIX}{name}"] for name in names}


def plug(call: Call, vm: Row) -> None:
    """Give the new domain of `vm` its module. Raises for firmware that knows of none, but where one is only made now, for a
    fully virtual guest whose platform asks for it."""
    store = call.db
    if "VTPMs" not in vm or store.release.order < SINCE:
        return
    if vm["VTPMs"]:
        if vm["HVM_boot_params"].get("firmware", "bios") == "bios":
            raise refuse("NOT_IMPLEMENTED", "Booting BIOS VM with VTPMs attached")
    elif checks.is_hvm(vm) and is_true(vm["platform"].get("vtpm", "")):
        assert_may_have(store, vm)
        make(call.pool, vm.ref)
    for vtpm in store.rows("VTPM", vm["VTPMs"]):
        if not contents(store, vtpm):
            fill(call.pool, vtpm, b64encode(f"the state of TPM {vtpm['uuid']}".encode()).decode())
