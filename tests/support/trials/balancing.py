"""Workload balancing, and virtual switches."""

from __future__ import annotations

from typing import Any

# These tell only where a server fails.
ELSEWHERE = {"host.assert_can_evacuate", "host.get_vms_which_prevent_evacuation"}
HINTS: dict[str, list[Any]] = {
    "pool.initialize_wlb.wlb_url": ["wlb:8012"],
    "pool.initialize_wlb.wlb_username": ["wlbuser"],
    "pool.initialize_wlb.wlb_password": ["secret"],
    "pool.initialize_wlb.xenserver_username": ["root"],
    "pool.initialize_wlb.xenserver_password": ["secret"],
    "SDN_controller.introduce.protocol": ["ssl"],
    "SDN_controller.introduce.address": ["10.9.0.5"],
    "SDN_controller.introduce.port": [0],
    "pool.set_vswitch_controller.address": ["10.9.0.6"],
}
PREPARED: dict[str, tuple[str, ...]] = {
    "SDN_controller.forget": ("SDN_controller.introduce",),
    "pool.deconfigure_wlb": ("pool.initialize_wlb",),
}


def furnish(world: Any) -> None:
    """A server that the pool is not set up with yet."""
    world.pool.balancers.add("wlb")
