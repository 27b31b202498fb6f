"""Roles of hosts that lost their master, and guests of a host that was lost."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import Failure, ProcedureError, TaskCancelled, TransportError
from ..emergency import MASTER, MEMBER, SILENT, UNKNOWN, HostState, NoWayIn, at, look
from ..losing import Losing
from ..observe import observe
from . import Kind
from .guests import start_of

if TYPE_CHECKING:
    from ..plan import Step
    from ..running import Run

TOLD, FOLLOWING, SETTLED = 300.0, 1800.0, 1800.0
"""Seconds in which members follow once the master has told them; once they were told one by one; and in which a host that
follows is enabled, live, and has its storage."""
ASSUMED_DEAD = 1200.0
"""Seconds in which the master takes a host that is off for dead: ten minutes, and as much again."""
LOST = "lost"
"""Under which name the journal keeps the host that was lost, and its guests."""
CONFIRM = "switch it off, see that it is, and say so (--is-off, or at the terminal), or its guests could run twice"
"""What is wanted of whoever can see the host."""
HA_OFF = frozenset({"HA_NOT_ENABLED", UNKNOWN})
"""What a host answers that has no high availability to forget."""


def report(run: Run, sentence: str) -> None:
    """Keep a sentence for whoever reads what came of the run."""
    told = run.journal.get("report", [])
    if sentence not in told:
        run.journal.put("report", [*told, sentence])


def seen(run: Run, address: str) -> HostState:
    """What the host at `address` shows of itself."""
    return look(run.session, address, run.credentials)


def by_hand(run: Run, address: str, command: str) -> None:
    """Have a person type `command` at a host that can be told in no other way. Raises `Paused` where nobody does."""
    told(run, f"log in at the console of {address} and type: {command}")


def told(run: Run, what: str) -> None:
    """Have a person do something that can be seen afterwards. Raises `Paused` where nobody does."""
    from ..running import Paused

    if not run.ask(f"{what}. Is that done?"):
        raise Paused(f"{what}; then go on with this run")


def sees_power(hands: object) -> bool:
    """Whether hands see if a machine is on. Others infer it from the network, where a host that hangs looks as if it were
    off while its guests run."""
    return bool(getattr(hands, "sees_power", False))


# --- a host that was lost


def assert_away(run: Run, step: Step) -> None:
    """Raise `ProcedureError` unless a host is off: it does not answer, and somebody who sees it says so."""
    address, name = step.args["address"], run.plan.names[step.host]
    found = seen(run, address)
    if found.state != SILENT:
        raise ProcedureError(f"{name} answers at {address}, so it is not lost; see what it says with `recover status`")
    if sees_power(run.hands):
        power = run.hands.power(step.host)
        if power != "off":
            what = "switch it off, or guests could run twice"
            raise ProcedureError(f"{name} does not answer, but it is not off ({power}): {what}")
        return
    said = step.args.get("off") or run.journal.get(f"away {step.host}")
    if not said and not run.ask(f"{name} does not answer. Do you see that its power is off?"):
        raise ProcedureError(f"{name} does not answer, and neither does a host that hangs: {CONFIRM}")


class Away(Kind):
    """See that a host is off, before anything is done that would do harm if it ran."""

    name, text = "away", "see that {host} is off"

    def holds(self, run: Run, step: Step) -> bool:
        return bool(run.journal.get(f"away {step.host}"))

    def act(self, run: Run, step: Step) -> None:
        assert_away(run, step)
        run.journal.put(f"away {step.host}", True)


class FindLost(Kind):
    """Learn from the database which guests the lost host had, and where each can be started."""

    name, text = "find-lost", "learn what ran on {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.journal.get(LOST) is not None

    def act(self, run: Run, step: Step) -> None:
        pool = observe(run.session)
        found = [host.uuid for host in pool.hosts.values() if host.address == step.args["address"]]
        if not found:
            raise ProcedureError(f"the pool knows no host at {step.args['address']}: it was forgotten")
        losing = Losing.of(pool, found[0])
        for sentence in losing.left.values():
            report(run, sentence)
        run.journal.put(LOST, {**losing.as_args(), "host": found[0]})


def of_lost(run: Run, step: Step, name: str) -> Any:
    """What a step says of the lost host, or what was learnt of it in this run."""
    return step.args[name] if name in step.args else run.journal.get(LOST)[name]


def lost_host(run: Run, step: Step) -> Any:
    """The reference of the lost host; None once it is forgotten."""
    uuid = (run.journal.get(LOST) or {}).get("host", step.host)
    return next((ref for ref, host in run.session.host.get_all_records().items() if host.uuid == uuid), None)


def await_dead(run: Run, step: Step, host: Any) -> None:
    """Wait until the master takes a host for dead."""

    def dead() -> bool:
        metrics = run.session.host_metrics.get_all_records()
        known = metrics.get(run.session.host.get_metrics(host))
        return known is None or not known.live

    name = run.plan.names[step.host]
    run.until(
        dead, f"{name}: the master still hears of it, so its guests may run; it was not taken for dead", ASSUMED_DEAD
    )


class BelieveOff(Kind):
    """Have the pool believe that a lost host's guests are off. It destroys nothing but belief, and wants that to be true."""

    name, text = "believe-off", "have the pool take {host} and its guests for dead"

    def holds(self, run: Run, step: Step) -> bool:
        host = lost_host(run, step)
        return host is None or not self.guests(run, host)

    def act(self, run: Run, step: Step) -> None:
        host = lost_host(run, step)
        await_dead(run, step, host)
        assert_away(run, step)
        try:
            run.session.host.declare_dead(host)  # with its hooks, which free the locks of disks
        except Failure as error:
            if error.code != UNKNOWN:
                raise
            for vm in self.guests(run, host):
                run.session.VM.power_state_reset(vm)

    def guests(self, run: Run, host: Any) -> list[Any]:
        """The guests that are believed to run on a host."""
        return [
            ref
            for ref, vm in run.session.VM.get_all_records().items()
            if vm.resident_on == host and vm.power_state in ("Running", "Paused") and not vm.is_control_domain
        ]


class StartElsewhere(Kind):
    """Start the guests of a lost host on others, in order. What cannot be started is named, and the others go on."""

    name, text = "start-elsewhere", "start the guests of {host} on other hosts"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.down(run, step)

    def act(self, run: Run, step: Step) -> None:
        reasons = []
        for vm, name, to in self.down(run, step):
            try:
                start_of(run, vm, run.host(to)).wait()
            except (Failure, TaskCancelled) as error:
                reasons.append(f"{name}: {error}")
        if reasons:
            raise ProcedureError("these guests are not started", reasons)

    def down(self, run: Run, step: Step) -> list[tuple[str, str, str]]:
        """The guests that do not run anywhere: references, names, and the uuids of hosts."""
        records = {vm.uuid: (ref, vm) for ref, vm in run.session.VM.get_all_records().items()}
        there = [(*records[vm], to) for vm, to in of_lost(run, step, "vms") if vm in records]
        return [(ref, vm.name_label, to) for ref, vm, to in there if vm.power_state == "Halted"]


# --- roles


class Disarm(Kind):
    """Have a host forget high availability, which would keep its role from changing."""

    name, text = "disarm", "switch high availability off on {host} itself"

    def holds(self, run: Run, step: Step) -> bool:
        return bool(run.journal.get(f"disarmed {step.host}"))

    def act(self, run: Run, step: Step) -> None:
        try:
            with at(run.session, step.args["address"], run.credentials) as local:
                local.host.emergency_ha_disable(False)
        except NoWayIn:
            pass  # nor has its release high availability
        except Failure as error:
            if error.code not in HA_OFF:
                raise
        run.journal.put(f"disarmed {step.host}", True)


class Promote(Kind):
    """Make a member the master of a pool that lost its own. It serves the database that it kept last."""

    name, text = "promote", "make {host} the master"

    def holds(self, run: Run, step: Step) -> bool:
        return seen(run, step.args["address"]).state == MASTER

    def act(self, run: Run, step: Step) -> None:
        address = step.args["address"]
        if step.args.get("lost"):
            gone = seen(run, step.args["lost"])
            if gone.state != SILENT:
                raise ProcedureError(
                    f"{gone.address} answers: two masters would be worse than none; nothing was changed"
                )
        try:
            with at(run.session, address, run.credentials) as local:
                local.pool.emergency_transition_to_master()
        except NoWayIn:
            by_hand(run, address, "xe pool-emergency-transition-to-master")
        run.until(lambda: self.holds(run, step), f"{address} does not come up as master", FOLLOWING)


class Gather(Kind):
    """Have every other host follow the master. Those in `hosts` are waited for, others as far as they answer."""

    name, text = "gather", "have every host follow {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.astray(run, step)

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.recover_slaves()
        if not run.comes_true(lambda: self.holds(run, step), TOLD):
            for found in self.astray(run, step):
                self.told(run, found, step.args["address"])
        if not run.comes_true(lambda: self.holds(run, step), FOLLOWING):
            left = [f"{found.address}: {found.text or found.state}" for found in self.astray(run, step)]
            raise ProcedureError("these hosts do not follow the master", left)
        for address in self.others(run, step):
            if seen(run, address).state == SILENT:
                report(run, f"{address} does not answer: it follows once it is on, or see `recover status` then")

    def others(self, run: Run, step: Step) -> list[str]:
        """The addresses of the hosts that are to follow."""
        without = {step.args["address"], *step.args.get("without", ())}
        records = run.session.host.get_all_records().values()
        return [host.address for host in records if host.address not in without]

    def astray(self, run: Run, step: Step) -> list[HostState]:
        """The hosts that do not follow the master; those that do not answer only where they are waited for."""
        found = [seen(run, address) for address in self.others(run, step)]
        astray = [host for host in found if (host.state, host.master) != (MEMBER, step.args["address"])]
        return [host for host in astray if host.state != SILENT or host.address in step.args["hosts"]]

    def told(self, run: Run, found: HostState, master: str) -> None:
        """Tell one host itself. One that serves another pool is left alone."""
        pool = run.session.pool.get_uuid(run.pool)
        if found.state == SILENT:
            return
        if found.state == MASTER and found.pool != pool:
            text = f"{found.address} serves a pool of its own ({found.pool}), as after a fresh installation"
            raise ProcedureError(f"{text}: bring it back with `recover member`")
        try:
            with at(run.session, found.address, run.credentials) as local:
                local.pool.emergency_reset_master(master)
        except NoWayIn:
            if found.state == MASTER:
                with at(run.session, found.address, run.credentials, local=False) as own:
                    own.pool.emergency_reset_master(master)
            else:
                by_hand(run, found.address, f"xe pool-emergency-reset-master master-address={master}")


class Settled(Kind):
    """Wait until the hosts that follow take guests again: enabled, heard of, their storage plugged."""

    name, text = "settled", "wait until every host takes guests again"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.missing(run, step)

    def act(self, run: Run, step: Step) -> None:
        if not run.comes_true(lambda: self.holds(run, step), SETTLED / 2):
            self.helped(run, step)
        if not run.comes_true(lambda: self.holds(run, step), SETTLED / 2):
            raise ProcedureError("these hosts do not take guests", self.missing(run, step))

    def hosts(self, run: Run, step: Step) -> list[Any]:
        """The records of the hosts that are waited for: those that answer, and were not disabled before."""
        without, address = {*step.args.get("without", ())}, step.args["address"]
        records = run.session.host.get_all_records().values()
        out = [host for host in records if host.address not in without and host.uuid not in step.args["disabled"]]
        return [h for h in out if h.address == address or seen(run, h.address).state == MEMBER]

    def missing(self, run: Run, step: Step) -> list[str]:
        """What keeps hosts from taking guests, one sentence each."""
        try:
            metrics, pbds = run.session.host_metrics.get_all_records(), run.session.PBD.get_all_records()
            hosts = self.hosts(run, step)
        except TransportError as error:
            return [f"the master does not answer: {error}"]
        out = [f"{host.name_label} is not enabled" for host in hosts if not host.enabled]
        out += [
            f"the master does not hear of {host.name_label}"
            for host in hosts
            if host.metrics not in metrics or not metrics[host.metrics].live
        ]
        plugged = {ref for ref, pbd in pbds.items() if pbd.currently_attached} | run.unplugged
        return out + [
            f"storage of {host.name_label} is not plugged"
            for host in hosts
            if any(pbd in pbds and pbd not in plugged for pbd in host.PBDs)
        ]

    def helped(self, run: Run, step: Step) -> None:
        """Enable what is disabled, and plug what is not plugged. It shows whether that helped."""
        pbds = run.session.PBD.get_all_records()
        for host in self.hosts(run, step):
            with suppress(Failure):
                if not host.enabled:
                    run.session.host.enable(run.host(host.uuid))
            for pbd in host.PBDs:
                with suppress(Failure):
                    if pbd in pbds and not pbds[pbd].currently_attached and pbd not in run.unplugged:
                        run.session.PBD.plug(pbd)


class DisarmPool(Kind):
    """Switch high availability off in the database too: the pool that it was meant for is gone."""

    name, text = "disarm-pool", "switch high availability off"

    def holds(self, run: Run, step: Step) -> bool:
        pool = next(iter(run.session.pool.get_all_records().values()))
        return not pool.get("ha_enabled", False)

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.pool.disable_ha().wait()
        report(run, "high availability is off: switch it on again once the pool is whole")
