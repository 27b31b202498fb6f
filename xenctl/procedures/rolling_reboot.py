"""Rebooting hosts one after another, while the guests go on running.

The master goes first, as in every guide: what a reboot brings to light is better found where it can still be mended from the
console. Each host is emptied, rebooted, waited for stage by stage, and gets its guests back before the next one's turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..values import Ref
from .emptying import POLICIES, REFUSE, against_work, empty
from .observe import PoolFacts, observe
from .placement import Board
from .plan import Plan, Step
from .shutdown import find_host

if TYPE_CHECKING:
    from ..session import Session

REBOOT = "rolling reboot"


def plan(session: Session, hosts: Sequence[str] = (), *, stuck: str = REFUSE, stay: bool = False) -> Plan:
    """The plan for rebooting the hosts with these names or uuids (all of them if none is named); nothing is changed.

    `stuck` says what becomes of a guest that cannot leave its host: `refuse`, `suspend` or `shut-down`. With `stay` guests
    that were moved stay where they are. What stands against it is in `Plan.problems`. Raises `ValueError` for a name that
    the pool does not have.
    """
    if stuck not in POLICIES:
        raise ValueError(f"stuck is {', '.join(POLICIES)}, not {stuck!r}")
    pool = observe(session)
    order = in_order(pool, hosts)
    turns = Turns(session, pool, stuck=stuck, stay=stay)
    for host in order:
        turns.add(host, [Step("reboot", host=host)])
    return turns.plan(REBOOT, order, against_work(session, pool, order))


def in_order(pool: PoolFacts, names: Iterable[str]) -> list[str]:
    """The uuids of the hosts with these names or uuids, of all hosts if there are none: the master first, then by name."""
    chosen = {find_host(pool, name) for name in names} or set(pool.hosts)
    return sorted(chosen, key=lambda uuid: (uuid != pool.master, pool.hosts[uuid].name))


@dataclass
class Turns:
    """Hosts' turns, one after another, played through on a board."""

    session: Session
    pool: PoolFacts
    stuck: str = REFUSE
    stay: bool = False
    steps: list[Step] = field(default_factory=list)
    downtime: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = Board.of(self.pool)

    def add(self, host: str, work: Iterable[Step], *, emptied: bool = True) -> None:
        """The turn of `host`: emptied, where it has to be, worked on, waited for, filled again."""
        self.steps.append(Step("turn", host=host))
        if not emptied:
            self.steps += [*work, Step("return", host=host)]
            return
        board = self.board.copy()
        found = empty(self.session, board, host, self.stuck, f"it is the turn of {self.pool.hosts[host].name}")
        self.downtime.update(found.downtime)
        self.problems += found.problems
        stays = set(found.left["migrated"]) if self.stay else set()
        self.away += sorted(stays)
        self.steps += [
            Step("disable", host=host, reason="no guest is to come while it is emptied"),
            *found.away,
            *work,
            Step("return", host=host),
            *(step for step in found.back if step.vm not in stays),
        ]
        for vm in stays:
            self.board.move(self.pool.vms[vm], board.where[vm])

    def plan(
        self, procedure: str, order: Sequence[str], problems: Iterable[str] = (), *, then: Iterable[Step] = ()
    ) -> Plan:
        """The whole plan, high availability off and on around it where it is on. `then` follows the last turn."""
        around = ha_around(self.session, self.pool)
        warnings = ["high availability is off meanwhile"] if around else []
        steps = [Step("claim"), *around[:1], *self.steps, *then, *around[1:], Step("verify"), Step("release")]
        return Plan.of(
            *(self.pool, procedure, steps),
            hosts=order,
            downtime=self.downtime,
            problems=[*problems, *self.problems],
            warnings=warnings,
            away=self.away,
        )


def ha_around(session: Session, pool: PoolFacts) -> tuple[Step, ...]:
    """The steps that switch high availability off and on again as it is; none where it is off."""
    if not pool.ha_enabled:
        return ()
    record = session.pool.get_record(Ref(pool.ref))
    disks = [session.VDI.get_SR(Ref(vdi)) for vdi in record.ha_statefiles]
    args = {
        "srs": list(dict.fromkeys(session.SR.get_uuid(sr) for sr in disks)),
        "configuration": dict(record.ha_configuration),
        "tolerate": record.ha_host_failures_to_tolerate,
    }
    return (
        Step("ha-off", args=args, reason="it would fence hosts that are away"),
        Step("ha-on", args=args, reason="as it was"),
    )
