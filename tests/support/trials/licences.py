"""Licences: editions that a server has, and files."""

from __future__ import annotations

import base64
from typing import Any


def licence(sku: str) -> str:
    text = f'<xe_license sku_type="{sku}" version="1" serialnumber="7" sockets="2" productcode="" expiry="4000000000"/>'
    return base64.b64encode(text.encode()).decode()


ELSEWHERE = {"host.set_license_params"}  # members' toolstacks alone may call it
HINTS: dict[str, list[Any]] = {
    "host.apply_edition.edition": ["standard-per-socket"],
    "pool.apply_edition.edition": ["standard-per-socket"],
    "host.license_add.contents": [licence("standard-per-socket")],
    "host.license_apply.contents": [licence("XE Enterprise")],
}


def furnish(world: Any) -> None:
    """Licences for another edition than the hosts have."""
    world.pool.licences.add("localhost", "standard-per-socket")
