"""What hosts can do beside what xapi can: plugins, and extensions of the API. What there is, `mockserver.plugins` says."""

from __future__ import annotations

import json
from typing import Any

from .. import hosts, plugins, power
from ..call import Call, Steps, refuse
from . import verbs_of

verb = verbs_of("host")
verb_of_vm = verbs_of("VM")


@verb("machine.prepared")
def call_plugin(call: Call, host: str, plugin: str, fn: str, args: dict[str, str]) -> Steps:
    """Let the control domain of a host run a program."""
    return (yield from _run(call, hosts.reached(call, host), plugin, fn, args))


@verb_of_vm("machine.prepared")
def call_host_plugin(call: Call, vm: str, plugin: str, fn: str, args: dict[str, str]) -> Steps:
    """The same where a VM runs."""
    row = call.db.get("VM", vm)
    if row["power_state"] != "Running":
        raise refuse("VM_BAD_POWER_STATE", vm, "running", row["power_state"].lower())
    return (yield from _run(call, power.contact(call, row), plugin, fn, args))


def _run(call: Call, contact: hosts.Contact, plugin: str, fn: str, args: dict[str, str]) -> Steps:
    found = call.pool.plugins.of(contact.machine.system.release, plugin)
    if found is None:
        raise refuse("XENAPI_MISSING_PLUGIN", plugin)
    return (yield from plugins.run(found, contact, plugins.Asked(contact.host, contact.machine, fn, args, call)))


@verb()
def call_extension(call: Call, host: str, text: str) -> Steps:
    """Make a call that only an extension knows: `text` is the call in JSON-RPC."""
    contact = hosts.reached(call, host)
    name, params = _read(text)
    found = call.pool.extensions.get(name)
    if found is None:
        raise refuse("MESSAGE_METHOD_UNKNOWN", name)
    args = {str(place): param for place, param in enumerate(params)}
    asked = plugins.Asked(contact.host, contact.machine, name, args, call)
    return (yield from plugins.run({name: found}, contact, asked))


def _read(text: str) -> tuple[str, list[Any]]:
    try:
        call = json.loads(text)
        name, params = call["method"], call["params"]
    except (ValueError, TypeError, KeyError):
        raise refuse("INTERNAL_ERROR", f"Jsonrpc.Malformed_method_request({text})") from None
    if not isinstance(name, str) or not isinstance(params, list):
        raise refuse("INTERNAL_ERROR", f"Jsonrpc.Malformed_method_request({text})")
    return name, params
