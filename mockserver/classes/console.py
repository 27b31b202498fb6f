"""Consoles: xapi makes them for VMs that run, and nobody else does."""

from __future__ import annotations

from typing import Any

from ..call import Call, refuse
from . import verbs_of

verb = verbs_of("console")


@verb()
def create(call: Call, args: dict[str, Any]) -> str:
    raise refuse("NOT_IMPLEMENTED", "Console.create")


@verb()
def destroy(call: Call, ref: str) -> str:
    raise refuse("NOT_IMPLEMENTED", "Console.destroy")
