"""Updates from repositories: installed on a host, and what must be done then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ProcedureError
from ..waiting import REACHABLE, answer
from . import KINDS, Kind, Verification

if TYPE_CHECKING:
    from ..plan import Step
    from ..running import Run

GUIDANCE = {"reboot_host": "reboot", "restart_toolstack": "restart-toolstack"}
"""What a host must do after it was updated, and the action that does it. Booting comes first: it starts its toolstack,
too."""


class ApplySynced(Kind):
    """Install on a host what the pool has synced. The host takes no guests until it has done what it must then."""

    name, text = "apply-synced", "install what was synced on {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return has_synced(run.session.host.get_record(run.host(step.host)), step.args["hash"])

    def act(self, run: Run, step: Step) -> None:
        warnings = run.session.Async.host.apply_updates(run.host(step.host), step.args["hash"]).wait()
        for warning in warnings:
            run.journal.note(f"{run.plan.names[step.host]}: {' '.join(warning)}")


class FollowGuidance(Kind):
    """Do what a host says that it must do: reboot, or restart its toolstack."""

    name, text = "follow-guidance", "do what {host} must do after its update"

    def holds(self, run: Run, step: Step) -> bool:
        return self.asked(run, step) == []

    def act(self, run: Run, step: Step) -> None:
        name = run.plan.names[step.host]
        run.until(
            lambda: self.asked(run, step) is not None, f"{name}: the pool's master does not answer", REACHABLE.timeout
        )
        asked = self.asked(run, step) or []
        action = next((action for guidance, action in GUIDANCE.items() if guidance in asked), None)
        if action is not None:
            KINDS[action].act(run, step)
        elif asked:
            raise ProcedureError(f"{name} asks for what is not known here ({', '.join(asked)}): see to it by hand")
        run.until(lambda: self.holds(run, step), f"{name} still asks for something", SETTLE)

    def asked(self, run: Run, step: Step) -> list[str] | None:
        """What the host asks for; None where the pool's master is away."""
        record = answer(lambda: run.session.host.get_record(run.host(step.host)))
        return None if record is None else list(map(str, record.pending_guidances))


SETTLE = 600.0
"""Seconds in which a host that has done it says so."""


class Synced(Verification):
    """See that hosts have what was synced, and have done what they must."""

    name, text = "verify-synced", "see that every host that was named is up to date"
    said = "not every host is up to date"

    def faults(self, run: Run, step: Step) -> list[str]:
        records = {uuid: run.session.host.get_record(run.host(uuid)) for uuid in step.args["hosts"]}
        return [
            f"{run.plan.names[uuid]} is not"
            for uuid, host in records.items()
            if not has_synced(host, step.args["hash"]) or host.pending_guidances
        ]


def has_synced(host: Any, digest: str) -> bool:
    """Whether a host's record says that it has the updates of this digest. A host that lacked none says so without one."""
    return host.latest_synced_updates_applied == "yes" and host.get("last_update_hash", digest) in (digest, "")
