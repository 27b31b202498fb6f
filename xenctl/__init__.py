"""xenctl: a typed client for the XenAPI of XenServer and XCP-ng, and the maintenance procedures of their pools.

    with xenctl.connect("https://10.0.0.1", "root", password) as session:
        for ref, vm in session.VM.get_all_records().items():
            print(vm.name_label, vm.power_state, vm.memory_static_max)

`Session` and `connect` are in `xenctl.session`, errors in `xenctl.errors`, the procedures in `xenctl.procedures`, rehearsals
in `xenctl.rehearsal`. Importing this module loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        ConnectError,
        ConnectionLost,
        DatabaseError,
        Failure,
        NotJsonRpc,
        ProcedureError,
        ProtocolError,
        TaskCancelled,
        TransportError,
        WaitTimeout,
        XenctlError,
    )
    from .session import Session, connect
    from .tasks import Task
    from .values import NULL, Record, Ref

    __version__: str

__all__ = [
    "NULL",
    "ConnectError",
    "ConnectionLost",
    "DatabaseError",
    "Failure",
    "NotJsonRpc",
    "ProcedureError",
    "ProtocolError",
    "Record",
    "Ref",
    "Session",
    "Task",
    "TaskCancelled",
    "TransportError",
    "WaitTimeout",
    "XenctlError",
    "connect",
]

_HOMES = {
    "Session": "session",
    "connect": "session",
    "Task": "tasks",
    "NULL": "values",
    "Record": "values",
    "Ref": "values",
}


if not TYPE_CHECKING:  # checkers are to see a misspelled name

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "__version__":
            from importlib.metadata import version

            return version("xenctl")
        if name not in __all__:
            raise AttributeError(f"module 'xenctl' has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
