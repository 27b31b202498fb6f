"""Guests as a test wants them."""

from __future__ import annotations

from mockserver import MockPool


def fully_virtual(pool: MockPool) -> MockPool:
    """The pool with no paravirtualised guests, which releases from 8.2.1 on do not start any more."""
    for vm in pool.store.table("VM").values():
        if not vm["is_control_domain"]:
            pool.store.write(vm, HVM_boot_policy="BIOS order")
    return pool
