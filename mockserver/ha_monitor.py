"""What the master does while high availability is on: it notices lost hosts, starts their VMs elsewhere, and keeps its plan.

xapi looks every 20 seconds. Here a look is due 20 seconds after something was written that it would see, and when something
that it put off falls due, so nothing polls. What it remembers is lost with its toolstack, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from . import failover_plan, hosts, liveset, messages, subtasks
from .call import Wait
from .journal import Kept

if TYPE_CHECKING:
    from .clock import Timer
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

PRIORITIES = {
    "HA_STATEFILE_LOST": 2,
    "HA_PROTECTED_VM_RESTART_FAILED": 2,
    "HA_HOST_FAILED": 3,
    "HA_HOST_WAS_FENCED": 4,
}
"""The priorities of the messages."""
WOULD_BREAK = "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"
BEST_EFFORT = "best-effort"
TRIES = 2
"""How often a VM that is started by best effort is tried again while nothing changes."""
LAST = 1 << 62
"""Where a VM whose `order` is negative comes."""

Result = Mapping[str, str]
"""Of VMs that were to start: the code of the error, empty where there was none."""
Group = tuple[tuple[str, str], ...]
"""VMs that start at the same time, each with the host that it is to start on, empty where any will do."""


@dataclass(eq=False)
class Monitor(Kept):
    """What a toolstack remembers of its looks: `due` is the next one, `since` when the first was asked for, `ready` whether
    all live hosts had been enabled by then, `stale` whether the plan must be made anew, `planned_at` when it last was,
    `blocked_until` until when somebody asked to start nothing, `busy` whether VMs are being started, `missed` whether a look
    fell due meanwhile, `statefile_lost` whether no host reached the state file. `attempted` is when each VM was last tried,
    `told` which failures operators know of, `tried` how often best effort was in vain."""

    due: Timer | None = None
    since: float = -1.0
    ready: bool = False
    stale: bool = True
    planned_at: float = 0.0
    blocked_until: float = 0.0
    busy: bool = False
    missed: bool = False
    statefile_lost: bool = False
    last_live: frozenset[str] = frozenset()
    attempted: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """One look: the master that takes it, with what it remembers, the hosts that live now and that lived before, and the VMs
    of lost hosts."""

    pool: MockPool
    machine: HostMachine
    monitor: Monitor
    live: frozenset[str]
    before: frozenset[str]
    lost: tuple[str, ...]

    @property
    def over(self) -> bool:
        """Whether the toolstack that takes it has stopped, or its daemon."""
        return self.machine.xapi.monitor is not self.monitor or not self.machine.ha_daemon


# --- when to look


def wake(pool: MockPool) -> None:
    """Have the master look soon, where high availability is on."""
    pool.upkeep.replan = False
    for machine in pool.machines:
        if machine.xapi.mode == "master" and machine.ha_daemon:
            _due(pool, machine, pool.durations.ha_monitor)


def _due(pool: MockPool, machine: HostMachine, seconds: float) -> None:
    monitor = machine.xapi.monitor
    if monitor.since < 0:
        monitor.since = pool.clock.now()
    if monitor.due is not None and monitor.due.action is not None:
        if monitor.due.moment <= pool.clock.now() + seconds:
            return
        monitor.due.cancel()
    monitor.due = pool.clock.after(seconds, partial(_look, pool, machine, monitor))


def prevent_restarts(pool: MockPool, machine: HostMachine, seconds: float) -> None:
    """Start no VM for so many seconds; with 0 look at once."""
    machine.xapi.monitor.blocked_until = pool.clock.now() + seconds
    if seconds < 1 and machine.ha_daemon:
        _due(pool, machine, 0.0)


def replan(pool: MockPool, machine: HostMachine) -> None:
    """Have the plan made anew at the next look."""
    machine.xapi.monitor.stale = True
    if machine.ha_daemon:
        _due(pool, machine, pool.durations.ha_monitor)


def host_enabled(pool: MockPool) -> None:
    """A host takes VMs again: where the pool had too little room, it may have enough now."""
    row = pool.store.pool()
    if row.get("ha_enabled") and row["ha_overcommitted"]:
        replan(pool, pool.master)


def begin(machine: HostMachine) -> None:
    """Remember nothing but until when no VM is to be started: high availability is switched on."""
    machine.xapi.monitor = Monitor(blocked_until=machine.xapi.monitor.blocked_until)


def _look(pool: MockPool, machine: HostMachine, monitor: Monitor) -> None:
    now = pool.clock.now()
    monitor.due = None
    if machine.xapi.monitor is not monitor or machine.xapi.mode != "master" or not machine.ha_daemon:
        return
    if monitor.busy:
        monitor.missed = True
        return
    if now < monitor.blocked_until:
        _due(pool, machine, monitor.blocked_until - now)
        return
    live = liveset.live(pool, machine)
    left = monitor.since + pool.durations.ha_patience - now
    if not monitor.ready and left > 0 and not all(pool.store.get("host", ref)["enabled"] for ref in live):
        _due(pool, machine, left)
        return
    monitor.ready = True
    monitor.stale = monitor.stale or live != monitor.last_live
    before, monitor.last_live = monitor.last_live, live
    look = Look(pool, machine, monitor, live, before, ())
    settings = machine.system.ha
    if settings is None or not settings.decides:
        _finish(look)
        return
    lost = tuple(_declare_dead(pool, live))
    if lost:
        failover_plan.update_status(pool, live=live)
    _restart(replace(look, lost=lost))


# --- hosts that were lost


def _declare_dead(pool: MockPool, live: frozenset[str]) -> Iterable[str]:
    """Write down that the hosts which are missing are dead, and their VMs off; gives the VMs."""
    store = pool.store
    for host in list(store.table("host").values()):
        if host.ref in live:
            continue
        vms = hosts.guests_of(store, host)
        if hosts.live(store, host):
            _tell(pool, "HA_HOST_FAILED", host, f"Server '{host['name_label']}' has failed")
            hosts.set_live(store, host, alive=False)
        for vm in vms:
            if vm["power_state"] in ("Running", "Paused"):
                pool.force_halted(vm)
            yield vm.ref


def _tell(pool: MockPool, name: str, row: Row, body: str = "") -> None:
    cls = {"host": "Host", "pool": "Pool"}.get(row.table, row.table)
    messages.post(pool, name, priority=PRIORITIES[name], cls=cls, uuid=row["uuid"], body=body)


def host_booted(pool: MockPool, machine: HostMachine, host: Row) -> None:
    """A host writes down what it finds out about itself: if it did not stop on purpose, it must have been reset."""
    if liveset.returned(pool, machine):
        _tell(pool, "HA_HOST_WAS_FENCED", host)
    machine.stopped_cleanly = True


def master_started(pool: MockPool, machine: HostMachine) -> None:
    """What a master does that starts, before it believes anything: other hosts take no VMs until they have come back. One
    that laid down its arms alone lays down the pool's."""
    store = pool.store
    if not store.pool()["ha_enabled"]:
        return
    if not machine.system.armed:
        store.write(store.pool(), ha_enabled=False)
        return
    for host in list(store.table("host").values()):
        store.write(host, enabled=False)
    pool.upkeep.replan = True


# --- starting VMs again


def order_of(vm: Row) -> int:
    """When a VM starts, the lowest first; up to 5.6 FP1 the restart priority said that."""
    priority = vm["ha_restart_priority"]
    order = int(vm.get("order", priority if priority.isdigit() else 0))
    return order if order >= 0 else LAST


def _groups(vms: Iterable[tuple[Row, str]]) -> tuple[Group, ...]:
    """VMs in the order in which they start, those of the same order together."""
    wanted = list(vms)
    orders = sorted({order_of(vm) for vm, _ in wanted})
    return tuple(tuple((vm.ref, host) for vm, host in wanted if order_of(vm) == order) for order in orders)


def _restart(look: Look) -> None:
    """Start every protected VM that is off where the plan says; without a plan for all, wherever there is room."""
    pool, store = look.pool, look.pool.store
    plan = failover_plan.restart_plan(pool, store.pool()["ha_host_failures_to_tolerate"], live=look.live)
    off = [vm for vm in failover_plan.protected_vms(store) if vm["power_state"] == "Halted"]
    if plan.complete:
        wanted = [(vm, plan.starts[vm.ref]) for vm in off if vm.ref in plan.starts]
    else:
        wanted = [(vm, "") for vm in off]
    look.monitor.busy = True
    _start(look, _groups(wanted), {}, partial(_protected_started, look))


def _start(look: Look, groups: tuple[Group, ...], results: Result, then: Callable[[Result], None]) -> None:
    """Start groups of VMs one after another. A VM that was tried just before is not tried again yet."""
    pool, monitor = look.pool, look.monitor
    if look.over:
        return
    if not groups:
        then(results)
        return
    now, tasks, early = pool.clock.now(), {}, {}
    for vm, host in groups[0]:
        if now - monitor.attempted.get(vm, -pool.durations.ha_retry - 1) <= pool.durations.ha_retry:
            early[vm] = "too early"
            continue
        monitor.attempted[vm] = now
        tasks[vm] = _start_one(pool, vm, host)

    def over() -> bool:
        return look.over or all(subtasks.over(pool.store, task) for task in tasks.values())

    def go_on() -> None:
        if look.over:
            return
        done = {vm: _outcome(pool, task) for vm, task in tasks.items()}
        if WOULD_BREAK in done.values():
            failover_plan.mark_overcommitted(pool, live=look.live)
        _start(look, groups[1:], {**results, **early, **done}, then)

    if over():
        go_on()
    else:
        pool.when(Wait(now + subtasks.PATIENCE, over), go_on)


def _start_one(pool: MockPool, vm: str, host: str) -> str:
    if host:
        return subtasks.start_alone(pool, "VM.start_on", vm, host, False, True)
    return subtasks.start_alone(pool, "VM.start", vm, False, True)


def _outcome(pool: MockPool, task: str) -> str:
    """The error of a task, empty where it had none; the task goes."""
    row = pool.store.find("task", task)
    if row is None:
        return "gone"
    error = "" if row["status"] == "success" else (row["error_info"] or ["cancelled"])[0]
    pool.store.delete(row)
    return str(error)


def _protected_started(look: Look, results: Result) -> None:
    """Tell of protected VMs that could not be started, once each; then come those by best effort."""
    pool, store, monitor = look.pool, look.pool.store, look.monitor
    for ref, error in results.items():
        vm = store.find("VM", ref)
        if error and vm is not None and ref not in monitor.told:
            monitor.told.add(ref)
            _tell(pool, "HA_PROTECTED_VM_RESTART_FAILED", vm)
    failed = {ref for ref, error in results.items() if error}
    monitor.told &= failed
    for ref in [ref for ref in monitor.attempted if ref not in failed]:
        del monitor.attempted[ref]
    if failed:
        _due(pool, look.machine, pool.durations.ha_retry + 1.0)
    wanted = [vm for vm in _by_best_effort(look, well=not failed) if _is_best_effort(vm)]
    _start(look, _groups((vm, "") for vm in wanted), {}, partial(_best_done, look))


def _is_best_effort(vm: Row) -> bool:
    return bool(vm.get("ha_restart_priority") == BEST_EFFORT and vm["power_state"] == "Halted")


def _by_best_effort(look: Look, *, well: bool) -> Iterable[Row]:
    """All VMs where hosts have come and no protected VM is left; those of lost hosts else, and while nothing changed those
    that were tried in vain."""
    store, tried = look.pool.store, look.monitor.tried
    if well and len(look.live) > len(look.before):
        tried.clear()
        return list(store.table("VM").values())
    if not well or look.live != look.before:
        tried.clear()
    return [vm for vm in (store.find("VM", ref) for ref in dict.fromkeys((*tried, *look.lost))) if vm is not None]


def _best_done(look: Look, results: Result) -> None:
    tried = look.monitor.tried
    for vm, error in results.items():
        look.monitor.attempted.pop(vm, None)
        count = tried.pop(vm, 0) + 1
        if error and count <= TRIES:
            tried[vm] = count
            _due(look.pool, look.machine, look.pool.durations.ha_retry + 1.0)
    _finish(look)


# --- what the pool says


def _finish(look: Look) -> None:
    """Write down what the daemons say of each host, and make the plan anew if it is time."""
    pool, store, monitor = look.pool, look.pool.store, look.monitor
    monitor.busy = False
    if monitor.missed:
        monitor.missed = False
        _due(pool, look.machine, pool.durations.ha_monitor)
    peers = sorted(store.get("host", ref)["uuid"] for ref in look.live)
    reaching = 0
    for host in list(store.table("host").values()):
        machine, lives = pool.machine_of(host), host.ref in look.live
        if lives and not hosts.live(store, host):
            hosts.set_live(store, host, alive=True)
        sees = lives and machine is not None and liveset.reaches(pool, machine)
        reaching += sees
        if bool(host["ha_statefiles"]) != sees:
            store.write(host, ha_statefiles=list(store.pool()["ha_statefiles"]) if sees else [])
        seen = peers if lives else []
        if sorted(host["ha_network_peers"]) != seen:
            store.write(host, ha_network_peers=seen)
    if not reaching and not monitor.statefile_lost:
        _tell(pool, "HA_STATEFILE_LOST", store.pool(), "All live servers have lost access to the HA statefile")
    monitor.statefile_lost = not reaching
    again = monitor.planned_at + pool.durations.ha_replan - pool.clock.now()
    if monitor.stale or again <= 0:
        failover_plan.update_status(pool, live=look.live)
        monitor.stale, monitor.planned_at = False, pool.clock.now()
    else:
        _due(pool, look.machine, again)
