"""What hosts can do beside what xapi can: plugins, and extensions of the API. What there is, `mockserver.plugins` says."""

from __future__ import annotations

import json
from typing import Any

from .. import hosts, plugins
from ..call import Call, Steps, refuse
from . import verbs_of

verb = verbs_of("host")


@verb("machine.prepared")
def call_plugin(call: Call, host: str, plugin: str, fn: str, args: dict[str, str]) -> Steps:
    """Let the control domain of a host run a program."""
    contact = hosts.contact(call.pool, call.db.get("host", host))
    machine = contact.machine
    found = call.pool.plugins.of(machine.system.release, plugin)
    if found is None:
        raise refuse("XENAPI_MISSING_PLUGIN", plugin)
    return (yield from plugins.run(found, contact, plugins.Asked(contact.host, machine, fn, args, call)))


@verb()
def call_extension(call: Call, host: str, text: str) -> Steps:
    """Make a call that only an extension knows: `text` is the call in JSON-RPC."""
    contact = hosts.contact(call.pool, call.db.get("host", host))
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
    except (ValueError, TypeError, KeyError) as error:
        raise refuse("INTERNAL_ERROR", f"Jsonrpc.Malformed_method_request({error})") from None
    if not isinstance(name, str) or not isinstance(params, list):
        raise refuse("INTERNAL_ERROR", f"Jsonrpc.Malformed_method_request({text})")
    return name, params
