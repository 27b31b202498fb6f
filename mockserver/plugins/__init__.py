"""Plugins: programs in the control domains that `host.call_plugin` runs, and extensions, for `host.call_extension`.

What a release brings along is in `SHIPPED`; each of these has a module here, named after it. A test adds its own, or
replaces or removes one that is shipped, on all hosts at once:

    pool.plugins["updater.py"] = {"check_update": lambda asked: "[]"}
    del pool.plugins["prepare_host_upgrade.py"]

A function is given what was asked (`Asked`) and returns text; one that takes time yields seconds on the way, as verbs do. A
`Failure` that it raises reaches the caller as it is, anything else as `XENAPI_PLUGIN_FAILURE` with the function, the
exception's class and its text. The extensions of a pool, `pool.extensions`, are functions by their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure
from xenctl.releases import find

from ..call import Steps, refuse
from ..journal import Kept
from . import coalesce_leaf, prepare_host_upgrade, trim
from .base import Asked, PluginError, PluginFunction, PluginSteps

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..hosts import Contact

SHIPPED: dict[str, dict[str, tuple[str, PluginFunction]]] = {
    "coalesce-leaf": coalesce_leaf.FUNCTIONS,
    "prepare_host_upgrade.py": prepare_host_upgrade.FUNCTIONS,
    "trim": trim.FUNCTIONS,
}
"""The plugins of the product: for each function, the first release that has it."""


class Plugins(Kept):
    """The plugins of a pool's hosts, by their names: what their releases bring along, and what a test put or took away."""

    def __init__(self) -> None:
        self.changed: dict[str, dict[str, PluginFunction] | None] = {}

    def __setitem__(self, name: str, functions: Mapping[str, PluginFunction]) -> None:
        """Give every host a plugin. Raises `ValueError` for a name that no file has, or for one without functions."""
        if not name or "/" in name:
            raise ValueError(f"a plugin is called as its file is, not {name!r}")
        if not functions:
            raise ValueError(f"plugin {name!r} has no function; `del` takes a plugin away")
        self.changed[name] = dict(functions)

    def __delitem__(self, name: str) -> None:
        """Take a plugin away from every host. Raises `KeyError` where none can have it."""
        if self.changed.get(name, SHIPPED.get(name)) is None:
            raise KeyError(f"no host has a plugin {name!r}")
        self.changed[name] = None

    def of(self, release: Release, name: str) -> Mapping[str, PluginFunction] | None:
        """The functions of a plugin on a host of `release`, None where it has no such plugin."""
        if name in self.changed:
            return self.changed[name]
        known = {word: made for word, (since, made) in SHIPPED.get(name, {}).items() if release >= find(since)}
        return known or None


def run(plugin: Mapping[str, PluginFunction], contact: Contact, asked: Asked) -> Steps:
    """Do what was asked, while the host answers."""
    if asked.function not in plugin:
        raise refuse("UNKNOWN_XENAPI_PLUGIN_FUNCTION", asked.function)
    try:
        begun: Any = plugin[asked.function](asked)
        steps: Any = begun if isgenerator(begun) else None
        out = begun if steps is None else (yield from _while_it_answers(contact, steps))
        if not isinstance(out, str):
            raise TypeError(f"a plugin returns text, not {out!r}")  # noqa: TRY301 - it is the caller's to see
    except (Failure, AssertionError):
        raise
    except Exception as error:
        kind = "Exception" if isinstance(error, PluginError) else type(error).__name__
        raise refuse("XENAPI_PLUGIN_FAILURE", asked.function, kind, error) from error
    return out


def _while_it_answers(contact: Contact, steps: PluginSteps) -> Steps:
    """Go on with a plugin's steps; it ends with its host."""
    try:
        while True:
            try:
                wait = next(steps)
            except StopIteration as stop:
                return stop.value
            yield wait
            contact.check()
    finally:
        steps.close()


__all__ = ["SHIPPED", "Asked", "PluginError", "PluginFunction", "Plugins", "run"]
