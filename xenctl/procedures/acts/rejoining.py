"""A failed host: forgotten, installed afresh, and back in the pool as a new one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import Failure, ProcedureError, TaskCancelled
from ..emergency import MASTER, MEMBER, at
from ..hands import FRESH, wants
from ..losing import own_storage
from . import Kind
from .hosts import HOST_TIMEOUT
from .recovering import FOLLOWING, await_dead, lost_host, report, seen, sees_power

if TYPE_CHECKING:
    from ...session import Session
    from ..plan import Plan, Step
    from ..running import Run

REFUSALS = {
    "HOSTS_NOT_HOMOGENEOUS": "its software or its processors differ from the pool's; --force joins it all the same",
    "HOSTS_NOT_COMPATIBLE": "another release is installed on it than the pool has",
    "LICENCE_RESTRICTION": "its licence, or the pool's, does not allow it to join: give it the pool's edition first",
    "LICENSE_DOES_NOT_SUPPORT_POOLING": "its licence does not allow it to join: give it the pool's edition first",
    "LICENSE_HOST_POOL_MISMATCH": (
        "its edition is not the pool's: give it that, or, in the midst of an upgrade, upgrade the other hosts first "
        "(xenctl upgrade adopt --take-over), mark the pool with this run again (xenctl take-over), and go on"
    ),
    "HA_IS_ENABLED": "high availability is on: switch it off first",
    "JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS": "it is the master of a pool of its own: it was not installed afresh",
    "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS": "it has shared storage: it was not installed afresh",
    "JOINING_HOST_CANNOT_HAVE_RUNNING_VMS": "guests run on it: it was not installed afresh",
    "JOINING_HOST_CANNOT_HAVE_RUNNING_OR_SUSPENDED_VMS": "guests run on it: it was not installed afresh",
    "JOINING_HOST_CONNECTION_FAILED": "it does not reach the master: see to its network",
    "JOINING_HOST_SERVICE_FAILED": "it does not reach the master's service: see to its network",
    "SESSION_AUTHENTICATION_FAILED": "the master, or the new installation, has another password: give it the pool's",
    "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION": "another release is installed on it than the pool has",
    "POOL_JOINING_HOST_MUST_HAVE_SAME_API_VERSION": "another release is installed on it than the pool has",
    "POOL_JOINING_HOST_MUST_HAVE_SAME_DB_SCHEMA": "another release is installed on it than the pool has",
    "POOL_JOINING_HOST_MUST_HAVE_PHYSICAL_MANAGEMENT_NIC": "its management interface is no bare card",
    "POOL_JOINING_HOST_HAS_BONDS": "it has bonds: they come with the pool, so remove them first",
    "POOL_JOINING_HOST_TLS_VERIFICATION_MISMATCH": "the pool verifies certificates, and the host does not, or the reverse",
    "POOL_JOINING_EXTERNAL_AUTH_MISMATCH": "the pool has a directory of users that the host is not joined to: join it first",
}
"""Why a host may not join, in words, by what `pool.join` answers."""
OTHER_EDITION = "LICENSE_HOST_POOL_MISMATCH"


def came_back(run: Run, step: Step) -> str | None:
    """The uuid by which the pool knows now the host that was lost; None before it has joined."""
    records = run.session.host.get_all_records().values()
    found = (host.uuid for host in records if host.address == step.args["address"] and host.uuid != step.host)
    return next(found, None)


def new_host(run: Run, step: Step) -> Any:
    """The reference of the host that came back. Raises `ProcedureError` where it is gone again."""
    uuid = came_back(run, step)
    if uuid is None:
        raise ProcedureError(f"the pool has no host at {step.args['address']} any more: somebody took it away")
    return run.host(uuid)


class ForgetHost(Kind):
    """Drop a lost host from the database, and the storage that only it had."""

    name, text = "forget-host", "forget {host}, and the storage that only it had"

    def holds(self, run: Run, step: Step) -> bool:
        return lost_host(run, step) is None and not self.storage(run, step)

    def act(self, run: Run, step: Step) -> None:
        host = lost_host(run, step)
        if host is not None:
            await_dead(run, step, host)
            own = own_storage(run.session, host)
            run.journal.put("own storage", [sr.uuid for sr in own])
            for sr in own:
                if sr.disks:
                    report(run, f"{sr.name} is lost with {run.plan.names[step.host]}: {', '.join(sr.disks)}")
            run.session.host.destroy(host)
        for ref in self.storage(run, step):
            for pbd in run.session.SR.get_PBDs(ref):
                with suppress(Failure):  # of a host that is gone: the master drops it by itself, sooner or later
                    run.session.PBD.destroy(pbd)
            run.session.SR.forget(ref)

    def storage(self, run: Run, step: Step) -> list[Any]:
        """The storage that is still to be forgotten."""
        mine = run.journal.get("own storage", [])
        return [ref for ref, sr in run.session.SR.get_all_records().items() if sr.uuid in mine]


class InstallAfresh(Kind):
    """Install a forgotten host anew: what was on its disks is gone, so it must be forgotten first."""

    name, text = "install-afresh", "install {release} afresh on {host}"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether it serves a pool of its own, with another uuid than the host that was lost."""
        found = seen(run, step.args["address"])
        return (
            found.state == MASTER and found.pool != run.plan.pool and found.uuid != step.host
        ) or found.state == MEMBER

    def unmarks(self, plan: Plan, step: Step) -> bool:
        """Whether it is the first of a pool that is made anew, and marked anew later."""
        return "claim" in [later.action for later in plan.steps[plan.steps.index(step) :]]

    def act(self, run: Run, step: Step) -> None:
        hands, host, name = run.hands, step.host, run.plan.names[step.host]
        address, begun = step.args["address"], bool(run.journal.get(f"afresh {host}"))
        power, watched = hands.power(host), sees_power(hands)
        if power == "running" and not begun:
            raise ProcedureError(f"{name} was switched on, and runs what was on its disks: switch it off again")
        if power == "off" and not (begun and watched):
            if not watched:  # what runs from now on may be the new installation
                run.journal.put(f"afresh {host}", True)
            wants(hands, host, FRESH)
            hands.insert_media(host, run.plan.medium)
            hands.power_on(host)
        run.until(
            lambda: hands.power(host) != "off" and hands.power(host) != "starting",
            f"{name}: the installer does not come up",
            HOST_TIMEOUT,
        )
        if hands.power(host) == "installer":
            offered = hands.offers(host)
            if FRESH not in offered:
                raise ProcedureError(f"{name}: the installer offers {', '.join(offered)}, and no fresh installation")
            run.journal.put(f"afresh {host}", True)
            hands.answer(host, FRESH)
        run.until(
            lambda: self.holds(run, step),
            f"{name}: if it runs what was on its disks, switch it off and go on; no new installation comes up at {address}",
            HOST_TIMEOUT,
        )


class Join(Kind):
    """Have a host that serves a pool of its own join this one."""

    name, text = "join", "have {host} join the pool"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether it follows the master, which knows it by a new uuid. That is told here, since no act may be needed."""
        found, new = seen(run, step.args["address"]), came_back(run, step)
        if new is None or (found.state, found.master) != (MEMBER, step.args["master"]):
            return False
        report(run, f"{run.plan.names[step.host]} is known to the pool by a new uuid, {new}; it was {step.host}")
        return True

    def act(self, run: Run, step: Step) -> None:
        if came_back(run, step) is None:
            self.join(run, step)
        name = run.plan.names[step.host]
        run.until(lambda: self.holds(run, step), f"{name} joined, and does not follow the master", FOLLOWING)

    def join(self, run: Run, step: Step) -> None:
        """Call the host itself, with an edition of the pool's where its own is refused. Raises `ProcedureError` with the
        reason in words."""
        try:
            with at(run.session, step.args["address"], run.credentials, local=False) as own:
                try:
                    self.asked(run, step, own)
                except Failure as error:
                    if error.code != OTHER_EDITION or not self.licensed(run, step, own):
                        raise
        except Failure as error:
            if error.code not in REFUSALS:
                raise
            text = f"{run.plan.names[step.host]} may not join: {REFUSALS[error.code]} ({error})"
            raise ProcedureError(text) from error

    def asked(self, run: Run, step: Step, own: Session) -> None:
        """Ask the host to join."""
        join = own.Async.pool.join_force if step.args["force"] else own.Async.pool.join
        join(step.args["master"], run.credentials.username, run.credentials.password).wait()

    def licensed(self, run: Run, step: Step, own: Session) -> bool:
        """Give the host each of the pool's editions until it may join with one; False where it may with none."""
        (me,) = own.host.get_all()
        hosts = run.session.host.get_all_records().values()
        for edition, server in {host.edition: dict(host.license_server) for host in hosts}.items():
            with suppress(Failure):  # of the licence server, or that this edition is not the one either
                own.host.set_license_server(me, server)
                own.host.apply_edition(me, edition)
                self.asked(run, step, own)
                report(run, f"{run.plan.names[step.host]} was given the edition {edition}, as the pool has it")
                return True
        return False


class AsBefore(Kind):
    """Give a host that came back its name and description, and be what guests prefer that preferred it."""

    name, text = "as-before", "give {host} its name and its guests' preference back"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.different(run, step)

    def act(self, run: Run, step: Step) -> None:
        host = new_host(run, step)
        run.session.host.set_name_label(host, step.args["name"])
        run.session.host.set_name_description(host, step.args["description"])
        for vm in step.args["affinity"]:
            with suppress(Failure):  # a guest that is gone
                run.session.VM.set_affinity(run.vm(vm), host)

    def different(self, run: Run, step: Step) -> bool:
        host = new_host(run, step)
        record, vms = run.session.host.get_record(host), run.session.VM.get_all_records().values()
        mine = any(vm.uuid in step.args["affinity"] and vm.affinity != host for vm in vms)
        named = (record.name_label, record.name_description) == (step.args["name"], step.args["description"])
        return mine or not named


class GoHome(Kind):
    """Bring guests to a host that came back: those that run elsewhere migrate, those that are down start. What cannot is
    named, and the others go on."""

    name, text = "go-home", "bring the guests of {host} home"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.away(run, step)

    def act(self, run: Run, step: Step) -> None:
        host, reasons = new_host(run, step), []
        for ref, vm in self.away(run, step):
            name = vm.name_label
            try:
                run.until(
                    lambda ref=ref: not run.session.VM.get_current_operations(ref),  # type: ignore[misc]
                    f"{name}: the operation on it does not end",
                    HOST_TIMEOUT,
                )
                state = run.session.VM.get_power_state(ref)
                if state == "Halted":
                    run.session.Async.VM.start_on(ref, host, False, False).wait()
                elif state == "Running" and run.session.VM.get_resident_on(ref) != host:
                    run.session.Async.VM.pool_migrate(ref, host, {"live": "true"}).wait()
            except (Failure, TaskCancelled) as error:
                reasons.append(f"{name}: {error}")
        if reasons:
            raise ProcedureError("these guests are not at home", reasons)

    def away(self, run: Run, step: Step) -> list[tuple[Any, Any]]:
        """The guests that do not run at home, with their records."""
        host = new_host(run, step)
        records = {vm.uuid: (ref, vm) for ref, vm in run.session.VM.get_all_records().items()}
        there = [records[vm] for vm in step.args["vms"] if vm in records]
        return [(ref, vm) for ref, vm in there if vm.resident_on != host or vm.power_state not in ("Running", "Paused")]
