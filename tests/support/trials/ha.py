"""What the generated calls of `test_verbs_write` need to know of high availability."""

from __future__ import annotations

from typing import Any

HINTS: dict[str, list[Any]] = {"pool.set_ha_host_failures_to_tolerate.value": [1]}
PREPARED: dict[str, tuple[str, ...]] = {
    "pool.disable_ha": ("pool.enable_ha",),
    "pool.disable_redo_log": ("pool.enable_redo_log",),
}
ELSEWHERE = {
    "host.preconfigure_ha",  # toolstacks alone may call it
    "pool.ha_compute_max_host_failures_to_tolerate",  # writes only where the plan has changed unnoticed
}
