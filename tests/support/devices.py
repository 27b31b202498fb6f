"""What tests of block devices share."""

from __future__ import annotations

from typing import Any

from mockserver import checks
from mockserver.store import NULL


def record(c: Any, vm: str, **more: Any) -> dict[str, Any]:
    """What a new device of `vm` is made from: a disk to write to, unless told otherwise."""
    fields = {"VM": c.vm(vm).ref, "VDI": NULL, "userdevice": "autodetect", "bootable": False, "mode": "RW"}
    fields |= {"type": "Disk", "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    return {**fields, "unpluggable": True, **more}


def refusal(c: Any, vbd: Any, operation: str) -> list[str] | None:
    """What forbids an operation on a device."""
    error = checks.vbd_refused(c.pool.store, vbd, operation)
    return error.details if error else None
