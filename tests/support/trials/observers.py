"""What the calls of `test_verbs_write` need to know of observers."""

from __future__ import annotations

from typing import Any

HINTS: dict[str, list[Any]] = {
    "Observer.set_components.value": [["xapi"]],
    "Observer.set_endpoints.value": [["bugtool"]],
    "Observer.set_attributes.value": [{"my.key": "text"}],
}
RECORD: dict[str, dict[str, Any]] = {"Observer": {"components": [], "endpoints": [], "hosts": [], "attributes": {}}}
PREPARED: dict[str, tuple[str, ...]] = dict.fromkeys(
    (
        *("Observer.destroy", "Observer.register", "Observer.unregister", "Observer.set_enabled"),
        *("Observer.set_attributes", "Observer.set_components", "Observer.set_endpoints", "Observer.set_hosts"),
    ),
    ("Observer.create",),
)
