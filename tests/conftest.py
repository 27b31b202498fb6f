"""What holds for all tests, and a short way to call a fake pool."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mockserver import MockPool, rules
from mockserver.machine.disks import damage
from xenctl.errors import Failure

# How fast an example is made or run says how busy the machine is, not whether the property holds. In a fresh clone the
# first example is slow in any case: Hypothesis makes its tables of characters.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("unhurried")


# Clients in other languages need what only `tox -e clients` installs; it sets the variable.
collect_ignore = [] if "XEN_API" in os.environ else ["clients"]


class Calls:
    """A session with a fake pool, without bytes: `calls("VM.start", vm, False, False)`."""

    def __init__(self, pool: MockPool) -> None:
        self.pool = pool
        self.session: str = pool.dispatch("session.login_with_password", [pool.username, pool.password])

    def __call__(self, method: str, *args: Any, on: str | None = None) -> Any:
        """Call the master, or the host called `on`."""
        return self.pool.dispatch(method, [self.session, *args], self.pool.machine(on) if on else None)

    def refused(self, method: str, *args: Any, on: str | None = None) -> list[str]:
        """The error that a call must come to: its code and parameters."""
        with pytest.raises(Failure) as caught:
            self(method, *args, on=on)
        return caught.value.details

    def again(self) -> Calls:
        """Another session, or one with the master that came back."""
        return Calls(self.pool)

    def row(self, kind: str, name: str) -> Any:
        """The row of the object called `name`."""
        return next(row for row in self.pool.store.table(kind).values() if row["name_label"] == name)

    def vm(self, name: str) -> Any:
        return self.row("VM", name)

    def host(self, name: str) -> Any:
        return self.row("host", name)

    def vbd(self, vm: str, number: str) -> Any:
        """The block device of a VM by its number: `0` is the disk, `3` the CD drive."""
        return next(vbd for vbd in self.pool.vbds(self.vm(vm)) if vbd["userdevice"] == number)

    def unharmed(self) -> bool:
        """Whether every disk holds what its guest wrote, and belief and machines agree."""
        pool = self.pool
        for guest in pool.guests.values():
            for machine in pool.machines:
                if guest.uuid in machine.domains:
                    machine.domains[guest.uuid].catch_up(pool.clock.now())
            assert list(damage(guest, pool.disks)) == []
        for vm in pool.store.table("VM").values():
            if not vm["is_control_domain"]:
                there = [m for m in pool.machines if vm["uuid"] in m.domains]
                believed = pool.machine_of(pool.store.find("host", vm["resident_on"]))
                assert there == ([believed] if believed else []), vm["name_label"]
        return True

    def leave_free(self, host: str, size: int) -> None:
        """Give a host just so much memory that `size` bytes are left."""
        store, row = self.pool.store, self.host(host)
        metrics = store.get("host_metrics", row["metrics"])
        then = store.release.schema <= (5, 57)
        total = row["boot_free_mem"] if then else metrics["memory_total"]
        memory = total - rules.memory_free(store, row) + size
        store.write(row, boot_free_mem=memory)
        store.write(metrics, memory_total=memory)

    def start(self, method: str, *args: Any) -> Any:
        """Start an operation that goes on as a task; the task's row."""
        return self.pool.store.get("task", self(f"Async.{method}", *args))

    def sleep(self, seconds: float) -> None:
        self.pool.clock.advance(seconds)

    def until(self, holds: Callable[[], bool], limit: float = 7200.0) -> None:
        """Let simulated time pass until something holds."""
        self.pool.clock.run_until(self.pool.clock.now() + limit, holds)
        assert holds()

    def halt(self, host: str) -> None:
        """Halt a host and wait until it is off; its guests must be gone."""
        ref = self.host(host).ref
        self("host.disable", ref)
        self("host.shutdown", ref)
        self.until(lambda: self.pool.machine(host).state == "off")

    def install(self, host: str, release: str, choice: str = "upgrade") -> Calls:
        """Put the medium of a release into a host that is off, install, and wait until the host has started."""
        machine = self.pool.machine(host)
        self.pool.hands.insert_media(host, release)
        self.pool.hands.power_on(host)
        self.until(lambda: machine.state == "installer")
        self.pool.hands.answer(host, choice)
        self.until(lambda: machine.state == "running")
        return self

    def upgrade(self, host: str, release: str) -> Calls:
        """Bring an empty host to another release and wait until it is back in the pool; a session that is valid then."""
        self.halt(host)
        self.install(host, release)
        return self.back()

    def back(self) -> Calls:
        """Wait until every host that is on has started, and log in."""
        self.until(lambda: all(m.xapi.complete for m in self.pool.machines if m.state in ("running", "starting")))
        return self.again()


@pytest.fixture
def calls() -> Callable[..., Calls]:
    """A session with a fresh pool: the keywords are those of `MockPool.create`."""
    return lambda **shape: Calls(MockPool.create(**{"hosts": 2, "vms": 0, **shape}))
