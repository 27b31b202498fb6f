"""What a plugin is made of: functions that are told what was asked, and how they fail."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..call import Call, Wait

if TYPE_CHECKING:
    from ..machine.host import HostMachine
    from ..pool import MockPool
    from ..store import Row


class PluginError(Exception):
    """What a plugin raises to fail: the caller gets `XENAPI_PLUGIN_FAILURE`, with this text as its last parameter."""


@dataclass(frozen=True)
class Asked:
    """One call of a plugin or an extension: on which host, which function, with which arguments.

    The parameters of an extension are called by their places: `0`, `1` and so on.
    """

    host: Row
    machine: HostMachine
    function: str
    args: Mapping[str, Any]
    on_behalf_of: Call = field(repr=False)

    @property
    def pool(self) -> MockPool:
        """The pool, to look at; it is changed by calls."""
        return self.on_behalf_of.pool

    def call(self, method: str, *args: Any) -> Any:
        """Call the pool's master with the session of whoever called the plugin. Raises `Failure`."""
        return self.pool.dispatch(method, [self.on_behalf_of.caller, *args])


PluginSteps = Generator[float | Wait, None, str]
PluginFunction = Callable[[Asked], str | PluginSteps]
"""What a function of a plugin is: it returns its text, or yields seconds that it takes before it does."""
