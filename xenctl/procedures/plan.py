"""A plan as data: which steps, in which order, why; and what is known before the start about each host and VM.

A plan is made from one picture of the pool and holds nothing but names and uuids, so it can be stored, shown, compared
with the pool before each act, and run by another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

ACTIONS: Mapping[str, str] = {
    "backup": "fetch and verify a database backup",
    "eject": "eject the CD of {vm}",
    "resume": "resume {vm} on {to}",
    "disable": "disable {host}",
    "migrate": "migrate {vm} from {host} to {to}",
    "stop": "shut down {vm} cleanly",
    "halt": "shut down {host}",
    "install": "install {release} on {host}",
    "return": "wait for {host}",
    "start": "start {vm} on {to}",
    "equal": "wait until all versions are equal",
    "insert": "put the CD of {vm} back",
    "suspend": "suspend {vm}",
    "verify": "compare the pool with what it was",
}
"""What a step does, in words; names stand for uuids."""


@dataclass(frozen=True)
class Step:
    """One step. `host`, `vm` and `to` are uuids; `vbd` and `vdi` references of a CD drive and the disc; `release` a product
    version; `reason` says why."""

    action: str
    host: str = ""
    vm: str = ""
    to: str = ""
    vbd: str = ""
    vdi: str = ""
    release: str = ""
    reason: str = ""

    def text(self, names: Mapping[str, str]) -> str:
        """The step in words."""
        return ACTIONS[self.action].format(
            host=names.get(self.host, self.host),
            vm=names.get(self.vm, self.vm),
            to=names.get(self.to, self.to),
            release=self.release,
        )


@dataclass(frozen=True)
class PlannedHost:
    """One host of the plan, in the order of the upgrade."""

    uuid: str
    name: str
    before: str


@dataclass(frozen=True)
class PlannedVM:
    """One guest of the plan. `home` is the uuid of the host it ran on, None where it did not run; `planned_downtime` says
    that it will be shut down for its host's turn, and `why` the reason."""

    uuid: str
    name: str
    state: str
    home: str | None
    planned_downtime: bool
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """A rolling upgrade, before it starts.

    `source` and `target` are product versions, `medium` the release to install by brand and version. `problems` is empty
    where it can be done; `warnings` do not stop it.
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

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Names by uuid, of hosts and guests."""
        return {**{host.uuid: host.name for host in self.hosts}, **{vm.uuid: vm.name for vm in self.vms}}

    @property
    def downtime(self) -> tuple[PlannedVM, ...]:
        """The guests that will be shut down."""
        return tuple(vm for vm in self.vms if vm.planned_downtime)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)
