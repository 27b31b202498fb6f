"""Installing without a medium, and installing anew what is installed already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import Failure, ProcedureError, TransportError
from .. import picture
from ..observe import attached
from ..plan import Step
from . import KINDS, Kind, Verification
from .hosts import HOST_TIMEOUT, Install, close

if TYPE_CHECKING:
    from ..running import Run


class Prepare(Kind):
    """Have a host fetch the installer: it boots that the next time, and not its disk."""

    name, text = "prepare", "have {host} fetch the installer of {release}"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether this run has done it, and not used it up by a reboot: no call tells what a boot loader is set to."""
        return step.host in run.journal.get("prepared", []) and step.host not in run.journal.get("booted", {})

    def act(self, run: Run, step: Step) -> None:
        run.hands.prepare(run.host(step.host), run.plan.names[step.host])  # type: ignore[attr-defined]
        booted = run.journal.get("booted", {})
        run.journal.put("booted", {host: when for host, when in booted.items() if host != step.host})
        run.journal.put("prepared", [*run.journal.get("prepared", []), step.host])

    def undo(self, step: Step) -> Step:
        return Step("unprepare", host=step.host)


class Unprepare(Kind):
    """What there is no call for: a person has to do it."""

    name, text = "unprepare", "have {host} boot its disk again"

    def holds(self, run: Run, step: Step) -> bool:
        return step.host not in run.journal.get("prepared", []) or step.host in run.journal.get("booted", {})

    def act(self, run: Run, step: Step) -> None:
        raise ProcedureError(
            "its boot loader is set to install at the next boot, and no call takes that back; take the installer out of its "
            "boot menu, or upgrade it"
        )


class BootInstaller(Kind):
    """Reboot an empty host into the installer that it was prepared with, and wait until it has booted its disk again."""

    name, text = "boot-installer", "reboot {host} into the installer"

    def holds(self, run: Run, step: Step) -> bool:
        before = run.journal.get("booted", {}).get(step.host)
        return before is not None and self.booted(run, step) not in (None, before)

    def booted(self, run: Run, step: Step) -> str | None:
        """When the host booted, as the pool has it; None while its master does not answer."""
        try:
            return str(run.session.host.get_other_config(run.host(step.host)).get("boot_time", ""))
        except (Failure, TransportError):
            return None

    def act(self, run: Run, step: Step) -> None:
        known = run.journal.get("booted", {})
        address = next((host.address for host in run.plan.hosts if host.uuid == step.host), "")
        before = self.booted(run, step)
        if step.host not in known:
            close(run, step)
            run.journal.put("booted", {**known, step.host: before or ""})
        # After a crash it may be on its way already: a member that does not answer is left alone.
        if before is not None and (step.host == run.plan.master or attached(run.session, address)):
            run.session.host.reboot(run.host(step.host))
        run.until(
            lambda: self.holds(run, step),
            f"{run.plan.names[step.host]} does not come back from the installer; look at its screen",
            HOST_TIMEOUT,
        )


class Reinstall(Install):
    """Install the release again that runs already. As no version tells that it was done, what was chosen is kept in the
    journal; a host that booted its disk instead is shut down again."""

    name, text = "reinstall", "install {release} again on {host}, settings and guests preserved"

    def holds(self, run: Run, step: Step) -> bool:
        return self.chosen(run, step) and super().holds(run, step)

    def chosen(self, run: Run, step: Step) -> bool:
        """Whether the installer was seen to begin what preserves."""
        return bool(run.journal.get(f"reinstalls {step.host}"))

    def act(self, run: Run, step: Step) -> None:
        name = run.plan.names[step.host]
        if run.hands.power(step.host) == "running" and not self.chosen(run, step):
            run.journal.note(f"{name} runs, and was not seen to be installed: it is shut down for that")
            KINDS["halt"].act(run, step)
        super().act(run, step)
        if not self.chosen(run, step):
            raise ProcedureError(
                f"{name} runs, and nobody saw its installer begin: it may have booted its disk. Go on, and it is shut down "
                "and installed"
            )

    def began(self, run: Run, step: Step) -> None:
        run.journal.put(f"reinstalls {step.host}", True)


class TakePicture(Kind):
    """Write down the settings, and what is installed beside the product."""

    name, text = "picture", "write down the settings of {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.journal.get("picture") is not None

    def act(self, run: Run, step: Step) -> None:
        run.journal.put("packages", picture.packages(run.session, run.host(step.host)))
        run.journal.put("picture", seen(run, step))


class ComparePicture(Verification):
    """See that settings, guests and the host itself are what they were."""

    name, text, said = "compare", "compare {host} with what it was", "this is not what it was"

    def faults(self, run: Run, step: Step) -> list[str]:
        """What is not as the picture has it, and which guests do not run that ran."""
        vms = {vm.uuid: vm for vm in run.session.VM.get_all_records().values()}
        hosts = {ref: host.uuid for ref, host in run.session.host.get_all_records().items()}
        out = [] if step.host in hosts.values() else [f"{run.plan.names[step.host]} is not in the pool any more"]
        for uuid, (state, home) in step.args["vms"].items():
            vm, name = vms.get(uuid), run.plan.names.get(uuid, uuid)
            if vm is None:
                continue  # it is missing in the picture, too
            at = hosts.get(vm.resident_on, "")
            if vm.power_state != state:
                out.append(f"{name} is to be {state}, and is {vm.power_state}")
            elif state == "Running" and home and at != home:
                out.append(f"{name} is not on {run.plan.names[home]}")
        return out + picture.differences(run.journal.get("picture"), seen(run, step))


class Lost(Kind):
    """Write down what was installed beside the product and is not any more."""

    name, text = "lost", "list the packages that {host} has lost"

    def holds(self, run: Run, step: Step) -> bool:
        return run.journal.get("lost") is not None

    def act(self, run: Run, step: Step) -> None:
        now = picture.packages(run.session, run.host(step.host))
        lost = {name: text for name, text in run.journal.get("packages", {}).items() if name not in now}
        for name, text in lost.items():
            run.journal.note(f"lost: {name} ({text})")
        run.journal.put("lost", lost)


def seen(run: Run, step: Step) -> dict[str, Any]:
    """The picture of the step's host now; a master has everybody's settings, so all guests are in its picture."""
    everybody = step.host == run.plan.master
    return picture.take(run.session, hosts=[run.host(step.host)], vms=None if everybody else set(step.args["vms"]))
