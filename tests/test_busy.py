"""The error for an object that is busy, as releases that nobody has sold yet will tell it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mockserver import busy
from mockserver.store import Row
from xenctl.releases import find


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            find("8.4").order,
            {
                "VM": ["VM.suspend", "ref"],
                "VDI": ["VDI", "ref"],
                "SR": ["SR", "ref", "suspend"],
                "host": ["host", "ref", "suspend"],
                "pool": ["pool", "ref"],
            },
        ),
        (busy.TELLS_ALL, {kind: [kind, "ref", "suspend", "task"] for kind in ("VM", "VDI", "SR", "host", "pool")}),
    ],
)
def test_what_is_told_of_the_operation_in_the_way(order: Any, expected: dict[str, list[str]]) -> None:
    """Little and differently by class, until the toolstack's version 25.27 told all of every class."""
    store: Any = SimpleNamespace(release=replace(find("8.4"), order=order))
    for kind, details in expected.items():
        tell = (
            busy.vm_in_progress if kind == "VM" else lambda *told, kind=kind: busy.in_progress(told[0], kind, *told[1:])
        )
        assert tell(store, "ref", "suspend", "task").details == ["OTHER_OPERATION_IN_PROGRESS", *details]


def test_devices_tell_all_operations_at_once() -> None:
    """The newest first, in braces."""
    store: Any = SimpleNamespace(release=replace(find("8.4"), order=busy.TELLS_ALL))
    vif = Row("VIF", "ref", {"current_operations": {"t1": "plug", "t2": "attach"}})
    error = ["OTHER_OPERATION_IN_PROGRESS", "VIF", "ref", "{attach; plug}", "{t2; t1}"]
    assert busy.device_in_progress(store, vif).details == error
