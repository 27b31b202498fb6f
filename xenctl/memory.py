"""How much of a host's memory a VM takes, by the public memory model of the toolstack.

Before ballooning came with 5.6 a VM took all of its memory; since then it is admitted with its dynamic minimum. On top
come, in MiB, the device model of HVM guests, a page of bookkeeping, shadow tables and per-VCPU structures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from .datamodel import Order
from .releases import Release, find

MIB = 1 << 20


def overhead(vm: Mapping[str, Any]) -> int:
    """Bytes that a VM (a record, or the fields of one) takes beside its own memory."""
    return _overhead(
        int(vm["memory_static_max"]),
        int(vm["VCPUs_max"]),
        bool(vm["HVM_boot_policy"]),
        float(vm.get("HVM_shadow_multiplier") or 1.0),
    )


@lru_cache(maxsize=1024)
def _overhead(memory: int, vcpus: int, hvm: bool, multiplier: float) -> int:
    """The same by what it follows from, since many VMs are alike."""
    static = -(-memory // MIB)
    shadow = max(1, int(-(-(256 * vcpus + 2 * static) // 256) * multiplier))
    return ((1 if hvm else 0) + 1 + shadow + -(-38 * vcpus // 256)) * MIB


def needed(vm: Mapping[str, Any], release: Release) -> int:
    """Bytes of host memory that a pool whose master runs `release` reserves for a VM that runs."""
    if vm["is_control_domain"]:
        return int(vm["memory_static_max"])
    return int(vm["memory_dynamic_min" if release.order >= _ballooning() else "memory_static_max"]) + overhead(vm)


@cache
def _ballooning() -> Order:
    """From when on a VM is admitted with its dynamic minimum."""
    return find("5.6.0").order


def most(vm: Mapping[str, Any]) -> int:
    """Bytes of host memory that a VM takes where it is given all that it may have: its dynamic maximum, since 5.6."""
    return int(vm.get("memory_dynamic_max") or vm["memory_static_max"]) + overhead(vm)
