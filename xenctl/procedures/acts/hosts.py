"""What is done to hosts: by calls, and by hands in the machine room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ProcedureError
from ..drift import Astray
from ..fallen import missing, see_to
from ..hands import UPGRADE, wants
from ..plan import Step
from ..waiting import await_return, is_back, is_up
from . import Kind

if TYPE_CHECKING:
    from ..running import Run

HOST_TIMEOUT = 4 * 3600.0
"""Seconds after which a machine that does not get on is given up."""
RETURNS = 1800.0
"""Seconds in which a host that is switched on boots its disk."""
INSTALLING = ("installer", "installing")
"""What a host's power says while an installer has it."""


class Turn(Kind):
    """A host's turn begins. The pool is compared with the plan first, and whoever has a say may stop the run here."""

    name, text = "turn", "begin with {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return step.host in run.begun

    def act(self, run: Run, step: Step) -> None:
        run.begin_turn(step)


class Disable(Kind):
    """Keep guests from coming to a host."""

    name, text = "disable", "disable {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return not run.session.host.get_enabled(run.host(step.host))

    def act(self, run: Run, step: Step) -> None:
        run.session.host.disable(run.host(step.host))

    def undo(self, step: Step) -> Step | None:
        return Step("enable", host=step.host)


class Enable(Kind):
    """Let guests come to a host again."""

    name, text = "enable", "enable {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.host.get_enabled(run.host(step.host))

    def act(self, run: Run, step: Step) -> None:
        run.session.host.enable(run.host(step.host))


class Halt(Kind):
    """Shut down a host that is empty."""

    name, text = "halt", "shut down {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.hands.power(step.host) not in ("running", "stopping")

    def act(self, run: Run, step: Step) -> None:
        if run.hands.power(step.host) == "running":
            close(run, step)
            run.session.host.shutdown(run.host(step.host))
        run.until(
            lambda: run.hands.power(step.host) == "off",
            f"{run.plan.names[step.host]}: it does not switch off",
            HOST_TIMEOUT,
        )

    def undo(self, step: Step) -> Step:
        return Step("switch-on", host=step.host)


class SwitchOn(Kind):
    """Have a host that was shut down boot what is on its disk. One that shows an installer is left to whoever sees it."""

    name, text = "switch-on", "switch {host} on again"

    def holds(self, run: Run, step: Step) -> bool:
        return run.hands.power(step.host) == "running" and is_up(run, step.host)

    def act(self, run: Run, step: Step) -> None:
        hands, host, name = run.hands, step.host, run.plan.names[step.host]
        power = hands.power(host)
        if power in INSTALLING:
            raise ProcedureError(
                f"{name} shows an installer ({power}): see to it, have it boot its disk, and abandon again"
            )
        if power == "off":
            hands.eject_media(host)
            hands.power_on(host)
        run.until(lambda: self.holds(run, step), f"{name}: it does not start", RETURNS)


def close(run: Run, step: Step) -> None:
    """Stop before a host goes down on which guests still run: newer hosts would shut them down on the way. A host whose
    toolstack started anew since it was disabled is enabled, and may have taken some: it is disabled again."""
    host = run.host(step.host)
    run.do(Step("disable", host=step.host))
    left = [
        vm.name_label
        for vm in run.session.VM.get_all_records().values()
        if vm.resident_on == host and vm.power_state != "Halted" and not vm.is_control_domain
    ]
    if left:
        where = run.plan.names[step.host]
        raise ProcedureError(f"{where} is not empty: {', '.join(sorted(left))} still there; somebody put guests on it")


def boot_medium(run: Run, step: Step, choice: str) -> None:
    """Boot the plan's medium on a host that is off, with the answer file of the step if it has one, and wait until an
    installer, or the host itself, is up. `choice` is what is going to be chosen there."""
    hands, host = run.hands, step.host
    if hands.power(host) == "off":
        wants(hands, host, choice)
        answers = step.args.get("answer_file", "")
        hands.insert_media(host, run.plan.medium, *((answers.encode(),) if answers else ()))
        hands.power_on(host)
    run.until(
        lambda: hands.power(host) in ("installer", "installing", "running"),
        f"{run.plan.names[host]}: the installer does not come up",
        HOST_TIMEOUT,
    )


class Install(Kind):
    """Boot the medium, see that the installer found what is there and preserves it, let it work."""

    name, text = "install", "install {release} on {host}"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether the host is beyond the installer: it runs. Which release it runs is the next step's business."""
        return run.hands.power(step.host) == "running"

    def act(self, run: Run, step: Step) -> None:
        hands, host, name = run.hands, step.host, run.plan.names[step.host]
        boot_medium(run, step, UPGRADE)
        seen = hands.power(host)
        if seen == "installer":
            self.answer(run, step)
        if seen != "running" or unseen(hands, step):
            self.began(run, step)
        run.until(lambda: hands.power(host) == "running", f"{name}: the installation does not end", HOST_TIMEOUT)

    def began(self, run: Run, step: Step) -> None:
        """The installer is at work on what preserves."""

    def answer(self, run: Run, step: Step) -> None:
        """Choose the upgrade, if it is one of what the plan started from."""
        hands, host, source = run.hands, step.host, run.before[step.host]
        found, offered = hands.identified(host), hands.offers(host)
        if found != source or UPGRADE not in offered:
            hands.eject_media(host)
            raise ProcedureError(
                f"{run.plan.names[host]}: the installer found {found} and offers {', '.join(offered)}; only an upgrade "
                f"of {source} preserves settings and guests, so nothing was chosen"
            )
        hands.answer(host, UPGRADE)


def unseen(hands: object, step: Step) -> bool:
    """Whether nobody can see what an installer does: it asks nobody, or there is nobody to ask."""
    return bool(step.args.get("answer_file")) or not getattr(hands, "watches", True)


class Return(Kind):
    """Wait until a host, and the pool with it, is whole again."""

    name, text = "return", "wait for {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return is_back(run, step.host, step.release) and not missing(run)

    def act(self, run: Run, step: Step) -> None:
        await_return(run, step.host, step.release)
        left = see_to(run, step.host)
        if left:
            raise Astray("guests that went down cannot be started where they ran", left, ours=True)


class LeftOut(Kind):
    """A host that failed and was passed over is where the run ends, until somebody saw to it."""

    name, text = "left out", "see to {host}, which was passed over"

    def holds(self, run: Run, step: Step) -> bool:
        return False

    def act(self, run: Run, step: Step) -> None:
        name = run.plan.names[step.host]
        raise ProcedureError(
            f"{name} was passed over, and versions are mixed until it is upgraded too; put it right and resume with a new "
            f"plan of the rest. Its turn ended so: {step.reason}"
        )
