"""Behaviour, one module for each XenAPI class that has any; everything else comes from the data model.

A verb is a function named after its message, in the module named after its class, marked with what it writes:

    @verb("power_state", "resident_on", "VBD.currently_attached")
    def start(call, vm, start_paused, force): ...

A name without a class is a field of the verb's own class; `task.*` stands for every field of a class. A write that a verb
does not declare is an error of the fake. Messages of fields, records and queries are in `generic`. A message without a
verb answers `NOT_IMPLEMENTED`: nothing succeeds in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

if TYPE_CHECKING:
    from xenctl.datamodel import Message

    from ..store import Write

MODULES = (
    *("session", "task", "event", "pool", "pool_settings", "host", "host_settings", "host_removal"),
    *("host_plugins", "host_diagnostics", "host_measures", "host_networking", "host_guests", "host_hardware"),
    *("host_moves",),
    *("pool_join", "pool_exchange", "pool_master", "host_membership", "session_others"),
    *("pool_ha", "host_ha"),
    *(
        "vm",
        "vm_records",
        "vm_moves",
        "vm_storage_moves",
        "vm_copies",
        "vm_revert",
        "vm_install",
        "vm_memory",
        "vm_settings",
        "vm_queries",
    ),
    *("vm_import", "vm_sleep"),
    *("sr", "sr_database", "pbd", "vdi", "vdi_content", "vdi_fields", "vdi_moves", "vbd", "crashdump"),
    *("vif", "network", "pif", "bond", "vlan", "tunnel", "network_sriov"),
    *("pgpu", "gpu_group", "vgpu", "pusb", "usb_group", "vusb", "vtpm", "observer"),
    *("message", "blob", "secret", "console", "role", "subject", "auth"),
    *("host_certificates", "pool_certificates"),
    *("host_secret", "pool_secret"),
    *("host_external_auth", "pool_external_auth"),
    *("host_files", "pool_files"),
    *("vm_appliance", "vmss", "vmpp", "pool_patch", "pool_update", "host_patch", "host_crashdump"),
    *("host_licence", "pool_licence", "balancing", "repository", "host_updates", "vswitch", "audit"),
)

ALWAYS = frozenset({"task", "session", "machine"})
"""Tables that the call path itself writes."""


@dataclass(frozen=True)
class Verb:
    """What answers a message. `writes` holds `(table, field)`; the field `*` stands for all of the table's. `known` are the
    writes, as `(kind, table, field)`, that were found declared before."""

    name: str
    function: Callable[..., Any]
    writes: frozenset[tuple[str, str]] | None
    known: dict[tuple[str, str, str], None] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def may_write(self, write: Write) -> bool:
        """Whether the verb declares this write; the far side of a relation follows from the near, a touch changes none."""
        what = (write.kind, write.table, write.field)
        if what not in self.known and self._may_write(write):
            self.known[what] = None
        return what in self.known

    def _may_write(self, write: Write) -> bool:
        from ..store import far_sides

        if self.writes is None or write.table in ALWAYS or (write.table, write.field) in far_sides():
            return True
        if write.kind == "write" and not write.field:
            return True
        return (write.table, write.field or "*") in self.writes or (write.table, "*") in self.writes


VERBS: dict[str, Verb] = {}


def verbs_of(class_name: str) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """The marker for the verbs of one class."""

    def declare(*writes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        fields = frozenset(
            (table, field) if field else (class_name, table) for table, _, field in (w.partition(".") for w in writes)
        )

        def mark(function: Callable[..., Any]) -> Callable[..., Any]:
            name = f"{class_name}.{function.__name__.rstrip('_')}"
            if name in VERBS:
                raise ValueError(f"{name} is answered in {VERBS[name].function.__module__} already")
            VERBS[name] = Verb(name, function, fields)
            return function

        return mark

    return declare


@lru_cache(maxsize=1)
def load() -> None:
    """Load every module of verbs into `VERBS`."""
    for module in MODULES:
        import_module(f"{__name__}.{module}")


@cache
def find(message: Message) -> Verb:
    """The verb that answers `message`."""
    load()
    name = message.wire_name
    if name in VERBS:
        return VERBS[name]
    from .generic import KINDS, plain

    maker = KINDS.get(message.kind)
    function = maker(message) if maker else plain(message)
    return Verb(name, function or _not_implemented(name), None)


def _not_implemented(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise Failure(["NOT_IMPLEMENTED", name])

    return refuse
