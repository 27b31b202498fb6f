"""High availability: switched off while hosts are away, and on again as it was; how many failed hosts it is to survive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plan import Step
from . import Kind

if TYPE_CHECKING:
    from ..running import Run


class HaOff(Kind):
    """Switch high availability off. `args` is what switching it on again takes: see `HaOn`."""

    name, text = "ha-off", "switch high availability off"

    def holds(self, run: Run, step: Step) -> bool:
        return not _pool(run).ha_enabled

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.pool.disable_ha().wait()

    def undo(self, step: Step) -> Step:
        return Step("ha-on", args=step.args)


class HaOn(Kind):
    """Switch high availability on: on the storage with these uuids, with this configuration, for so many failures."""

    name, text = "ha-on", "switch high availability on as it was"

    def holds(self, run: Run, step: Step) -> bool:
        pool = _pool(run)
        return bool(pool.ha_enabled) and pool.ha_host_failures_to_tolerate == step.args["tolerate"]

    def act(self, run: Run, step: Step) -> None:
        session = run.session
        if not _pool(run).ha_enabled:
            srs = [session.SR.get_by_uuid(uuid) for uuid in step.args["srs"]]
            session.Async.pool.enable_ha(srs, step.args["configuration"]).wait()
        session.pool.set_ha_host_failures_to_tolerate(run.pool, step.args["tolerate"])


class Tolerate(Kind):
    """Change how many failed hosts high availability is to survive: to `tolerate`, from `before`."""

    name, text = "ha-tolerate", "have high availability survive {tolerate} failed hosts"

    def holds(self, run: Run, step: Step) -> bool:
        pool = _pool(run)
        return not pool.ha_enabled or pool.ha_host_failures_to_tolerate == step.args["tolerate"]

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.set_ha_host_failures_to_tolerate(run.pool, step.args["tolerate"])

    def undo(self, step: Step) -> Step | None:
        if "before" not in step.args:
            return None
        return Step("ha-tolerate", args={"tolerate": step.args["before"]})


def _pool(run: Run) -> Any:
    return run.session.pool.get_record(run.pool)
