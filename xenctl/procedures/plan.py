"""A plan as data: which steps, in which order, why; and what is known before the start about each host and VM.

A plan is made from one picture of the pool and holds nothing but names and uuids, so it can be stored, shown, compared
with the pool before each host's turn, and run by another process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import ProcedureError

if TYPE_CHECKING:
    from .checks.finding import Finding
    from .observe import PoolFacts

GIB = 1 << 30
UPGRADE = "rolling upgrade"
LISTS = ("rooms", "suspend", "shut_down")
"""What of a proof is a list in JSON."""


@dataclass(frozen=True)
class Step:
    """One step. `host`, `vm` and `to` are uuids; `vbd` and `vdi` references of a CD drive and the disc; `release` a
    product version; `reason` says why. `args` is what else the action needs, as JSON can carry it."""

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
    """One host of the plan, in the order of its turns. `before` is its product version; `enabled` and `live` are what it was
    when the plan was made."""

    uuid: str
    name: str
    before: str
    address: str = ""
    enabled: bool = True
    live: bool = True


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
    memory: int = 0
    """What it takes of a host, in bytes; 0 where that is not known."""


@dataclass(frozen=True)
class Expected:
    """What a plan expects of a guest at some step: its power state and the uuid of its host, empty where it has
    none."""

    state: str
    host: str


@dataclass(frozen=True)
class Effort:
    """How many migrations a plan takes, and bytes of memory that they move; `bound` and `memory_bound` are what its
    guests would need at the least if each were alone. `exact` where no plan takes less; `return_home` says that guests
    go home."""

    moves: int
    bound: int
    memory: int
    memory_bound: int
    exact: bool
    return_home: bool = True

    @property
    def text(self) -> str:
        """The effort in words."""
        policy = "go home" if self.return_home else "stay where the upgrade puts them"
        said = f"{self.moves} migrations, {self.memory / GIB:.1f} GiB; guests {policy}, for which the bound is {self.bound}"
        if self.exact:
            return f"{said}: no plan takes fewer"
        over = f"{self.moves / self.bound:.2f} times" if self.bound else f"{self.moves} more than"
        return f"{said}: the plan takes {over} that, and a better one may exist"


@dataclass(frozen=True)
class Proof:
    """Why an upgrade cannot be done. `how` it is known: `alone` (a guest has nowhere to go even in an empty pool),
    `counted` (guests need more memory than there is), `searched` (everything was tried), or `tried`: not proven, no way
    was found.

    It shows when `host` is upgraded, with the guest `vm`; `missing` is in bytes, for `vm` on the host that has most for
    it or, counted, for all; `rooms` says what each host has or lacks. `suspend` are the fewest guests (uuids) that make
    it possible if they are suspended before the first host, `shut_down` if each is shut down for its own host's turn;
    `..._exact` where it is proven that fewer do not. Empty where no such set is known.
    """

    how: str
    host: str
    vm: str
    missing: int
    rooms: tuple[str, ...] = ()
    suspend: tuple[str, ...] = ()
    suspend_exact: bool = False
    shut_down: tuple[str, ...] = ()
    shut_down_exact: bool = False


@dataclass(frozen=True)
class Plan:
    """What a procedure is going to do, before it starts.

    `source` and `target` are product versions, `medium` the release to install by brand and version; all three are
    empty for procedures that install nothing. `problems` is empty where it can be done; `warnings` do not stop it.
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
    procedure: str = UPGRADE
    master: str = ""
    """The uuid of the master."""
    unplugged: tuple[str, ...] = ()
    """References of the PBDs that were not plugged before, and are not waited for."""
    losses: tuple[str, ...] = ()
    """What will be lost, one sentence each; it has to be agreed to."""
    no_return: tuple[str, ...] = ()
    """The points of no return that the plan passes, one sentence each."""
    effort: Effort | None = None
    """How many migrations it takes, of procedures that empty hosts."""
    proof: Proof | None = None
    """Why hosts cannot be emptied, if that is a problem."""
    route: str = "media"
    """How hosts are installed: `media`, by hands that boot one, or `plugin`, by themselves."""
    policies: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What becomes of guests, by uuid, where that is not to migrate (see `guest_policies`)."""
    findings: tuple[Finding, ...] = ()
    """What the checks found; `problems` and `warnings` are told from it."""
    picture: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The pool before anything was done, as `comparison.picture` gives it."""

    @classmethod
    def of(
        cls,
        pool: PoolFacts,
        procedure: str,
        steps: Iterable[Step] = (),
        *,
        hosts: Iterable[str] = (),
        vms: Iterable[PlannedVM] | None = None,
        downtime: Mapping[str, str] = MappingProxyType({}),
        problems: Iterable[str] = (),
        warnings: Iterable[str] = (),
        away: Iterable[str] = (),
    ) -> Plan:
        """A plan for a pool as it is that installs nothing, of `hosts` (uuids) in this order and the others after them. Its
        guests are `vms`, all of them by name if left out, `downtime` being why some are shut down. One with problems has
        no steps."""
        first, against = list(hosts), tuple(dict.fromkeys(problems))
        ordered = (pool.hosts[uuid] for uuid in (*first, *(uuid for uuid in pool.hosts if uuid not in first)))
        every = (
            PlannedVM(vm.uuid, vm.name, vm.state, vm.host or None, vm.uuid in downtime, downtime.get(vm.uuid, ""))
            for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
        )
        return cls(
            pool=pool.uuid,
            pool_name=pool.name,
            source="",
            target="",
            medium="",
            hosts=tuple(
                PlannedHost(host.uuid, host.name, host.version, host.address, host.enabled, host.live)
                for host in ordered
            ),
            vms=tuple(every if vms is None else vms),
            steps=() if against else tuple(steps),
            problems=against,
            warnings=tuple(warnings),
            away=tuple(away),
            procedure=procedure,
            master=pool.master,
            unplugged=tuple(sorted(pool.unplugged)),
        )

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Names by uuid, of hosts and guests."""
        return {**{host.uuid: host.name for host in self.hosts}, **{vm.uuid: vm.name for vm in self.vms}}

    @cached_property
    def _memory(self) -> Mapping[str, int]:
        return {vm.uuid: vm.memory for vm in self.vms}

    def memory(self, vm: str) -> int:
        """What the guest with this uuid takes of a host, in bytes; 0 where that is not known."""
        return self._memory.get(vm, 0)

    @property
    def downtime(self) -> tuple[PlannedVM, ...]:
        """The guests that will be shut down."""
        return tuple(vm for vm in self.vms if vm.planned_downtime)

    def assert_agreed(
        self, cannot: str, shuts: str, loses: str = "", *, accept_downtime: bool, accept_loss: bool = False
    ) -> None:
        """Raise `ProcedureError` where the plan has problems, or stops guests or loses something that was not agreed to.
        `cannot`, `shuts` and `loses` are the words for it."""
        if self.problems:
            raise ProcedureError(cannot, self.problems)
        if self.downtime and not accept_downtime:
            reasons = [f"{vm.name}: {vm.why}" for vm in self.downtime]
            raise ProcedureError(f"{shuts} shuts guests down; say that you accept the downtime", reasons)
        if self.losses and not accept_loss:
            raise ProcedureError(f"{loses}; say that you accept the loss", self.losses)

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
        from .checks.finding import Finding

        texts = ("problems", "warnings", "away", "unplugged", "losses", "no_return")
        effort, proof = data.get("effort"), data.get("proof")
        made = {
            "hosts": tuple(PlannedHost(**host) for host in data["hosts"]),
            "vms": tuple(PlannedVM(**vm) for vm in data["vms"]),
            "steps": tuple(Step(**step) for step in data["steps"]),
            **{name: tuple(data[name]) for name in texts},
            "effort": None if effort is None else Effort(**effort),
            "proof": None if proof is None else Proof(**{**proof, **{n: tuple(proof[n]) for n in LISTS}}),
            "findings": tuple(Finding.from_dict(finding) for finding in data["findings"]),
        }
        return cls(**{**data, **made})
