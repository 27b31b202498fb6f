"""Guests coming up: a guest agent reports to xapi some time after its VM was started, if the guest still runs then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pool import MockPool
    from .store import Row


def started(pool: MockPool, vm: Row) -> None:
    """The guest in `vm` begins to boot; its agent reports when it is up, unless the guest is started again before."""
    guest = pool.guest(vm)
    guest.boots += 1
    guest.up_at = pool.clock.now() + pool.durations.vm_boot
    pool.clock.after(pool.durations.vm_boot, lambda: report(pool, vm))


def report(pool: MockPool, vm: Row) -> None:
    """Write down what the agent in `vm` says, if the guest is up and nothing is written yet. While no master serves, nobody
    listens; the next start of its host hears it."""
    store, found = pool.store, pool.domain(vm)
    guest = pool.guest(vm)
    row = store.find("VM", vm.ref)
    if row is None or found is None or not found[1].running or guest.agent is None or not pool.master_serves:
        return
    if pool.clock.now() >= guest.up_at and store.find("VM_guest_metrics", row["guest_metrics"]) is None:
        ref = pool.new_ref()
        fields = {**guest.agent, "uuid": pool.new_uuid(), "last_updated": pool.clock.stamp()}
        store.create("VM_guest_metrics", ref, fields)
        store.write(row, guest_metrics=ref)


def forget(pool: MockPool, vm: Row) -> None:
    """Drop what the agent in `vm` said: its guest starts anew."""
    old = pool.store.find("VM_guest_metrics", vm["guest_metrics"])
    if old is not None:
        pool.store.delete(old)
    pool.store.write(vm, guest_metrics="OpaqueRef:NULL")
