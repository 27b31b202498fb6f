"""Updates of pools: applied to one host after another, seen in the pool's own records, their packages cleaned away.

Up to 7.0 an update is a `pool_patch`, since 7.1 a `pool_update`. `ROUTES` tells what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...releases import find
from ...values import NULL
from . import Kind, Verification

if TYPE_CHECKING:
    from ...session import Session
    from ..plan import Step
    from ..running import Run


def _patched(session: Session, ref: Any) -> set[str]:
    """The hosts that have a patch."""
    return {
        str(row.host) for row in session.host_patch.get_all_records().values() if row.applied and row.pool_patch == ref
    }


def _updated(session: Session, ref: Any) -> set[str]:
    """The hosts that have an update."""
    return {str(host) for host, row in session.host.get_all_records().items() if ref in row.updates}


def _clean_patch(session: Session, ref: Any) -> None:
    """Since 6.1 a patch's file is removed from every host at once; before, from the master."""
    if session.release >= find("6.1"):
        session.pool_patch.pool_clean(ref)
    else:
        session.pool_patch.clean(ref)


@dataclass(frozen=True)
class Route:
    """How updates of one kind are called, and where it shows which hosts have one."""

    kind: str
    hosts: Callable[[Session, Any], set[str]]
    clean: Callable[[Session, Any], None]
    package: Callable[[Any], bool] | None = None
    """Whether the package of the update in this record is there still; None where no record shows it."""

    def messages(self, session: Session) -> Any:
        """The messages of the class."""
        return getattr(session, self.kind)


ROUTES: Mapping[str, Route] = {
    route.kind: route
    for route in (
        Route("pool_patch", _patched, _clean_patch),
        Route(
            "pool_update",
            _updated,
            lambda session, ref: session.Async.pool_update.pool_clean(ref).wait(),
            lambda record: record.vdi != NULL,
        ),
    )
}


def update_of(session: Session, step: Step) -> tuple[Route, Any]:
    """The route of a step's update, and its reference."""
    route = ROUTES[step.args["kind"]]
    return route, route.messages(session).get_by_uuid(step.args["uuid"])


class Apply(Kind):
    """Apply an update to a host."""

    name, text = "apply", "apply {name} to {host}"

    def holds(self, run: Run, step: Step) -> bool:
        route, ref = update_of(run.session, step)
        return run.host(step.host) in route.hosts(run.session, ref)

    def act(self, run: Run, step: Step) -> None:
        route, ref = update_of(run.session, step)
        getattr(run.session.Async, route.kind).apply(ref, run.host(step.host)).wait()


class Clean(Kind):
    """Remove an update's package, once the hosts have it."""

    name, text = "clean-update", "remove the package of {name}"

    def holds(self, run: Run, step: Step) -> bool:
        route, ref = update_of(run.session, step)
        if route.package is None:
            return bool(run.journal.get(self.name))
        return not route.package(route.messages(run.session).get_record(ref))

    def act(self, run: Run, step: Step) -> None:
        route, ref = update_of(run.session, step)
        route.clean(run.session, ref)
        run.journal.put(self.name, True)


class Applied(Verification):
    """See that every host that was to have an update has it."""

    name, text = "verify-update", "see that {name} is on every host that was named"
    said = "{name} is not on every host"

    def faults(self, run: Run, step: Step) -> list[str]:
        """The hosts that lack it, or have yet to boot for it."""
        route, ref = update_of(run.session, step)
        there = route.hosts(run.session, ref)
        records = {uuid: run.session.host.get_record(run.host(uuid)) for uuid in step.args["hosts"]}
        waits = {uuid for uuid, host in records.items() if ref in host.get("updates_requiring_reboot", [])}
        lacking = (uuid for uuid in records if run.host(uuid) not in there or uuid in waits)
        return [f"{run.plan.names[uuid]} lacks it" for uuid in lacking]
