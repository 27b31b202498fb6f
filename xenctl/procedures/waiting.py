"""Waiting for a host that was away, stage by stage, each with its own time and remedy.

A host that answers is not back yet: its release must be the new one, the pool out of emergency mode, the host enabled, its
metrics live, its storage plugged (without high availability a host is enabled before it is). Each stage says what it waits
for. Where a remedy exists it is applied when half of the stage's time is over, and once more when three quarters are: a
toolstack that is told to start again needs time to, and what was refused may be taken later. Where nobody answers no call
mends anything: a person has to, and the journal says how at the same times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Failure, ProcedureError, TransportError
from .observe import attached

if TYPE_CHECKING:
    from ..session import Session
    from .running import Run

T = TypeVar("T")

POLL = 15.0
"""Seconds between two looks at a host that is being waited for."""
AWAY = frozenset({"HOST_STILL_BOOTING", "HOST_IS_SLAVE", "SESSION_INVALID", "HOST_OFFLINE"})
"""What a host answers that is on its way."""


@dataclass(frozen=True)
class Look:
    """The pool at one moment, as far as waiting needs it; `host` is the reference of the one that is waited for."""

    host: str
    master: str
    hosts: Any
    metrics: Any
    pbds: Any


def answer(ask: Callable[[], T]) -> T | None:
    """What the pool answers; None where its master is away. Raises `Failure` for what waiting does not cure."""
    try:
        return ask()
    except Failure as error:
        if error.code in AWAY:
            return None
        raise
    except TransportError:
        return None


def look(run: Run, uuid: str) -> Look | None:
    """Look at the pool; None where its master does not answer. Raises `Failure` for what waiting does not cure."""
    return answer(lambda: _look(run.session, uuid))


def _look(session: Session, uuid: str) -> Look | None:
    metrics, hosts = session.host_metrics.get_all_records(), session.host.get_all_records()
    pbds, master = session.PBD.get_all_records(), next(iter(session.pool.get_all_records().values())).master
    ref = next((ref for ref, host in hosts.items() if host.uuid == uuid), "")
    return Look(ref, master, hosts, metrics, pbds) if ref else None


@dataclass(frozen=True)
class Stage:
    """One thing to wait for. `what` ends the sentence "HOST ..."; `advice` says what a person can do."""

    name: str
    timeout: float
    what: str
    advice: str
    holds: Callable[[Run, Look, str], bool]
    remedy: Callable[[Run, Look], None] | None = None


def _version(run: Run, seen: Look, release: str) -> bool:
    return not release or seen.hosts[seen.host].software_version.get("product_version") == release


def _tell_version(run: Run, seen: Look) -> None:
    """Have the host's toolstack start again: the pool learns then what it runs."""
    run.session.host.restart_agent(seen.host)  # type: ignore[arg-type]


def _attached(run: Run, seen: Look, release: str) -> bool:
    return all(attached(run.session, host.address) for ref, host in seen.hosts.items() if ref != seen.master)


def _recover(run: Run, seen: Look) -> None:
    """Have the master call its members, who are in emergency mode since they could not reach it."""
    run.session.pool.recover_slaves()


def _restart_toolstacks(run: Run, seen: Look) -> None:
    """Have the toolstacks of hosts start again whose heartbeats stay away."""
    for ref, host in seen.hosts.items():
        if host.metrics not in seen.metrics or not seen.metrics[host.metrics].live:
            run.session.host.restart_agent(ref)


def _enabled(run: Run, seen: Look, release: str) -> bool:
    return all(host.enabled for host in seen.hosts.values())


def _enable(run: Run, seen: Look) -> None:
    for ref, host in seen.hosts.items():
        if not host.enabled:
            run.session.host.enable(ref)


def _live(run: Run, seen: Look, release: str) -> bool:
    return all(h.metrics in seen.metrics and seen.metrics[h.metrics].live for h in seen.hosts.values())


def _plugged(run: Run, seen: Look, release: str) -> bool:
    unplugged = run.unplugged
    mine = (pbd for pbd in seen.hosts[seen.host].PBDs if pbd in seen.pbds and pbd not in unplugged)
    return all(seen.pbds[pbd].currently_attached for pbd in mine)


def _plug(run: Run, seen: Look) -> None:
    for pbd in seen.hosts[seen.host].PBDs:
        if pbd in seen.pbds and not seen.pbds[pbd].currently_attached and pbd not in run.unplugged:
            run.session.PBD.plug(pbd)


STAGES = (
    Stage(
        *("version", 7200.0, "does not run the new release"),
        "look at its screen: where it booted its disk instead of the medium, switch it off, install it, and go on",
        *(_version, _tell_version),
    ),
    Stage(
        *("attached", 1800.0, "is back, but members of the pool are still in emergency mode"),
        *("restart their toolstacks, or see whether they reach the master", _attached, _recover),
    ),
    Stage("enabled", 1800.0, "is back, but not every host is enabled", "enable them by hand", _enabled, _enable),
    Stage(
        *("live", 1200.0, "is back, but the master has no heartbeat of every host"),
        *("see to the network between the hosts", _live, _restart_toolstacks),
    ),
    Stage(
        *("storage", 1800.0, "is back, but not all of its storage is plugged"),
        *("see to the storage and plug the PBDs", _plugged, _plug),
    ),
)
REACHABLE = Stage(
    *("reachable", 4 * 3600.0, "is waited for, and the pool's master does not answer"),
    "see to its power, its screen and its network; if it is up, restart its toolstack at its console "
    "(xe-toolstack-restart, or service xapi restart where there is none)",
    lambda run, seen, release: True,
)
"""What comes first: somebody answers at all."""
NAMES = (REACHABLE.name, *(stage.name for stage in STAGES))
"""The stages in their order."""
REMEDIES = (0.5, 0.75)
"""At which parts of a stage's time its remedy is applied."""


def is_back(run: Run, uuid: str, release: str) -> bool:
    """Whether the pool is whole: the host of `release` (any, if empty), and all stages hold."""
    seen = look(run, uuid)
    return seen is not None and all(stage.holds(run, seen, release) for stage in STAGES)


def is_up(run: Run, uuid: str) -> bool:
    """Whether a host follows its master, which has its heartbeat, and has its storage; it need not be enabled."""
    seen = look(run, uuid)
    if seen is None:
        return False
    host = seen.hosts[seen.host]
    live = host.metrics in seen.metrics and seen.metrics[host.metrics].live
    follows = seen.host == seen.master or attached(run.session, host.address)
    return bool(live and follows and _plugged(run, seen, ""))


def await_return(run: Run, uuid: str, release: str) -> None:
    """Wait until the host is back, stage by stage. Raises `ProcedureError` naming the stage that does not come."""
    for stage in (REACHABLE, *STAGES):
        _await(run, uuid, release, stage)


def _await(run: Run, uuid: str, release: str, stage: Stage) -> None:
    name, clock = run.plan.names.get(uuid, uuid), run.session.clock
    timeout = run.policy.timeouts.get(stage.name, stage.timeout)
    start, remedies = clock.now(), [part * timeout for part in REMEDIES]
    while True:
        seen = look(run, uuid)
        if seen is not None and stage.holds(run, seen, release):
            break
        passed = clock.now() - start
        if passed >= timeout:
            raise ProcedureError(f"{name} {stage.what} within {timeout / 60:.0f} minutes; {stage.advice}")
        if remedies and passed >= remedies[0]:
            del remedies[0]
            _mend(run, name, stage, seen)
        run.may_go_on()
        clock.sleep(run.poll)
    run.journal.note(f"{name}: {stage.name}")


def _mend(run: Run, name: str, stage: Stage, seen: Look | None) -> None:
    """Apply a stage's remedy; where there is none, or nobody to apply it to, note what a person can do."""
    if seen is None or stage.remedy is None:
        silent = stage if seen is not None else REACHABLE
        run.journal.note(f"{name} {silent.what}; {silent.advice}")
        return
    run.journal.note(f"{name} {stage.what}; trying to mend that")
    with suppress(Failure, TransportError):  # it shows, or the time runs out
        stage.remedy(run, seen)
