"""A plan as data: which steps, in which order, why; and what is known before the start about each host and VM.

A plan is made from one picture of the pool and holds nothing but names and uuids, so it can be stored, shown, compared
with the pool before each host's turn, and run by another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step. `host`, `vm` and `to` are uuids; `vbd` and `vdi` references of a CD drive and the disc; `release` a product
    version; `reason` says why. `args` is what else the action needs, as JSON can carry it."""

    action: str
    host: str = ""
    vm: str = ""
    to: str = ""
    vbd: str = ""
    vdi: str = ""
    release: str = ""
    reason: str = ""
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def text(self, names: Mapping[str, str]) -> str:
        """The step in words."""
        from .acts import KINDS

        return KINDS[self.action].text.format(
            host=names.get(self.host, self.host),
            vm=names.get(self.vm, self.vm),
            to=names.get(self.to, self.to),
            release=self.release,
            **self.args,
        )

    def as_dict(self) -> dict[str, Any]:
        """The members that say anything."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class PlannedHost:
    """One host of the plan, in the order of its turns. `before` is its product version."""

    uuid: str
    name: str
    before: str
    address: str = ""


@dataclass(frozen=True)
class PlannedVM:
    """One guest of the plan. `home` is the uuid of the host it ran on, None where it did not run; `planned_downtime` says
    that it will be shut down for its host's turn, and `why` the reason. `now` and `at` are its power state and host when the
    plan was made, where that was not the start. `downtime_s` is about how long it will be down, in seconds, where that is
    known."""

    uuid: str
    name: str
    state: str
    home: str | None
    planned_downtime: bool
    why: str = ""
    now: str = ""
    at: str = ""
    downtime_s: float = 0.0


@dataclass(frozen=True)
class Expected:
    """What a plan expects of a guest at some step: its power state and the uuid of its host, empty where it has none."""

    state: str
    host: str


@dataclass(frozen=True)
class Plan:
    """What a procedure is going to do, before it starts.

    `source` and `target` are product versions, `medium` the release to install by brand and version; all three are empty for
    procedures that install nothing. `problems` is empty where it can be done; `warnings` do not stop it.
    """

    pool: str
    pool_name: str
    source: str
    target: str
    medium: str
    hosts: tuple[PlannedHost, ...]
    vms: tuple[PlannedVM, ...]
    steps: tuple[Step, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    """The uuids of guests that cannot be brought home in the end."""
    procedure: str = "rolling upgrade"
    master: str = ""
    """The uuid of the master."""
    unplugged: tuple[str, ...] = ()
    """References of the PBDs that were not plugged before, and are not waited for."""
    losses: tuple[str, ...] = ()
    """What will be lost, one sentence each; it has to be agreed to."""
    no_return: tuple[str, ...] = ()
    """The points of no return that the plan passes, one sentence each."""

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Names by uuid, of hosts and guests."""
        return {**{host.uuid: host.name for host in self.hosts}, **{vm.uuid: vm.name for vm in self.vms}}

    @property
    def downtime(self) -> tuple[PlannedVM, ...]:
        """The guests that will be shut down."""
        return tuple(vm for vm in self.vms if vm.planned_downtime)

    def expected(self, steps: int) -> dict[str, Expected]:
        """What each guest is, by uuid, once the first `steps` steps are done."""
        from .acts import KINDS

        out = {vm.uuid: Expected(vm.now, vm.at) if vm.now else Expected(vm.state, vm.home or "") for vm in self.vms}
        for step in self.steps[:steps]:
            for uuid in KINDS[step.action].concerns(step):
                if uuid in out:
                    out[uuid] = KINDS[step.action].leaves(step, out[uuid])
        return out

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `as_dict` gave, also after a way through JSON. Raises `TypeError` for anything else."""
        texts = ("problems", "warnings", "away", "unplugged", "losses", "no_return")
        made = {
            "hosts": tuple(PlannedHost(**host) for host in data["hosts"]),
            "vms": tuple(PlannedVM(**vm) for vm in data["vms"]),
            "steps": tuple(Step(**step) for step in data["steps"]),
            **{name: tuple(data[name]) for name in texts},
        }
        return cls(**{**data, **made})
