"""The pool's own messages."""

from __future__ import annotations

from .. import rules
from ..call import Call, refuse
from . import verbs_of

verb = verbs_of("pool")


@verb()
def is_slave(call: Call, host: str) -> bool:
    """A 4.0 host knows this message with fewer parameters: by that error newer masters recognise it."""
    if call.machine.system.release.order < rules.MIAMI:
        raise refuse("MESSAGE_PARAMETER_COUNT_MISMATCH", "pool.is_slave", 0, 1)
    return call.machine.system.role != "master"
