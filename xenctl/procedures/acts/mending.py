"""What mends findings of checks before a run, and takes that back after it.

Each is a step of its own with a step that undoes it, noted in the journal before the act; so whoever abandons a run gets
back what the pool allows then. Steps are made by the functions here, which know what the kinds need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ProcedureError
from ..plan import Step
from . import KINDS, Kind, availability, hosts

if TYPE_CHECKING:
    from ..observe import PoolFacts
    from ..running import Run


MENDS = "a check asks for it"


class Mend(Kind):
    """An act that mends, or that takes such a one back. `undone_by` names the action that undoes it, of the same arguments;
    empty where nothing does."""

    undone_by: ClassVar[str] = ""

    def undo(self, step: Step) -> Step | None:
        return replace(step, action=self.undone_by, reason="") if self.undone_by else None

    def foresee(self, step: Step, pool: PoolFacts) -> PoolFacts:
        """The picture of the pool once the step is done, as far as it shows."""
        return pool


# --- high availability


class HaRest(Mend, availability.HaOff):
    """Switch high availability off for a while. The arguments say how it was."""

    name = "ha-rest"

    def undo(self, step: Step) -> Step:
        return Step("ha-again", args=step.args)

    def foresee(self, step: Step, pool: PoolFacts) -> PoolFacts:
        return replace(pool, ha_enabled=False)


class HaAgain(Mend, availability.HaOn):
    """Switch high availability on as it was, which only a pool of one version allows."""

    name, text = "ha-again", "switch high availability on again"

    def act(self, run: Run, step: Step) -> None:
        versions = {
            host.software_version.get("product_version", "") for host in run.session.host.get_all_records().values()
        }
        if len(versions) > 1:
            raise ProcedureError(
                f"versions are mixed ({', '.join(sorted(versions))}); it can be switched on when all hosts have one"
            )
        super().act(run, step)


def ha_off(*, srs: Sequence[str], configuration: Mapping[str, str], failures: int) -> Step:
    """`srs` are the uuids of the SRs with the state files, `failures` the hosts that may fail."""
    return Step(
        "ha-rest", args={"srs": list(srs), "configuration": dict(configuration), "tolerate": failures}, reason=MENDS
    )


# --- hosts and storage


class LetIn(Mend, hosts.Enable):
    """Enable a host that somebody disabled."""

    name, text, undone_by = "let-in", "enable {host}, which is disabled", "keep-out"

    def foresee(self, step: Step, pool: PoolFacts) -> PoolFacts:
        return _with_host(pool, step.host, enabled=True)


class KeepOut(Mend, hosts.Disable):
    """Disable a host that was disabled before."""

    name, text = "keep-out", "disable {host} again"


def let_in(host: str) -> Step:
    """Enable the host with this uuid."""
    return Step("let-in", host=host, reason=MENDS)


class Plug(Mend):
    """Plug a PBD. It stays plugged: that is how it is to be."""

    name, text = "plug", "plug {sr} on {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.PBD.get_currently_attached(self.pbd(run, step))

    def act(self, run: Run, step: Step) -> None:
        run.session.PBD.plug(self.pbd(run, step))

    def pbd(self, run: Run, step: Step) -> Any:
        """The reference of the PBD."""
        return run.session.PBD.get_by_uuid(step.args["pbd"])

    def foresee(self, step: Step, pool: PoolFacts) -> PoolFacts:
        host, args = pool.hosts[step.host], step.args
        left = tuple(name for name in host.unplugged if name != args["sr"])
        pool = replace(pool, unplugged=pool.unplugged - {args["ref"]})
        return _with_host(pool, step.host, storage=host.storage | {args["sr_ref"]}, unplugged=left)


def plug(host: str, pbd: Mapping[str, Any], ref: str, sr: str) -> Step:
    """Plug a PBD (its record and reference) of the SR called `sr` on the host with this uuid."""
    return Step("plug", host=host, args={"pbd": pbd["uuid"], "ref": ref, "sr": sr, "sr_ref": pbd["SR"]}, reason=MENDS)


def _with_host(pool: PoolFacts, uuid: str, **changes: Any) -> PoolFacts:
    return replace(pool, hosts={**pool.hosts, uuid: replace(pool.hosts[uuid], **changes)})


# --- settings


class _Setting(Mend):
    """A setting of an object: `kind` and `uuid` say of which, `label` is the step in words and `value` what it becomes. A
    step that is to be undone has in `was` what it was, and in `back` the undoing in words."""

    text = "{label}"

    def undo(self, step: Step) -> Step | None:
        args = dict(step.args)
        if "back" not in args:
            return None
        args["label"], args["value"] = args.pop("back"), args.pop("was")
        return replace(step, args=args, reason="")

    def messages(self, run: Run, step: Step) -> tuple[Any, Any]:
        """The messages of the object's class, and its reference."""
        messages = getattr(run.session, step.args["kind"])
        return messages, messages.get_by_uuid(step.args["uuid"])


class SetField(_Setting):
    """Give a field another value."""

    name = "set-field"

    def holds(self, run: Run, step: Step) -> bool:
        messages, ref = self.messages(run, step)
        return bool(getattr(messages, f"get_{step.args['field']}")(ref) == step.args["value"])

    def act(self, run: Run, step: Step) -> None:
        messages, ref = self.messages(run, step)
        getattr(messages, f"set_{step.args['field']}")(ref, step.args["value"])


class SetKey(_Setting):
    """Give a key of a map another value; None takes it away."""

    name = "set-key"

    def holds(self, run: Run, step: Step) -> bool:
        value: str | None = step.args["value"]
        return self.found(run, step) == value

    def act(self, run: Run, step: Step) -> None:
        messages, ref = self.messages(run, step)
        field, key, value = (step.args[name] for name in ("field", "key", "value"))
        if self.found(run, step) is not None:
            getattr(messages, f"remove_from_{field}")(ref, key)
        if value is not None:
            getattr(messages, f"add_to_{field}")(ref, key, value)

    def found(self, run: Run, step: Step) -> str | None:
        """What the pool has there."""
        messages, ref = self.messages(run, step)
        found: Mapping[str, str] = getattr(messages, f"get_{step.args['field']}")(ref)
        return found.get(step.args["key"])


def set_field(kind: str, uuid: str, field: str, value: Any, was: Any, label: str, back: str) -> Step:
    """Set a field of the object of class `kind`; `label` and `back` are the step and its undoing in words."""
    args = {"kind": kind, "uuid": uuid, "field": field, "value": value, "was": was, "label": label, "back": back}
    return Step("set-field", args=args, reason=MENDS)


def set_key(
    kind: str, uuid: str, field: str, key: str, value: str | None, was: str | None, label: str, back: str
) -> Step:
    """Set a key of a map field, or take it away with None."""
    step = set_field(kind, uuid, field, value, was, label, back)
    return replace(step, action="set-key", args={**step.args, "key": key})


class LegacySslOff(Mend):
    """Let every host speak today's TLS only."""

    name, text, undone_by = "legacy-ssl-off", "switch old TLS off", "legacy-ssl-on"

    def holds(self, run: Run, step: Step) -> bool:
        return not _legacy(run)

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.disable_ssl_legacy(run.pool)


class LegacySslOn(Mend):
    """Let every host speak old TLS again, of releases that have it."""

    name, text = "legacy-ssl-on", "switch old TLS on again"

    def holds(self, run: Run, step: Step) -> bool:
        return _legacy(run)

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.enable_ssl_legacy(run.pool)


def legacy_ssl_off() -> Step:
    """Let every host speak today's TLS only."""
    return Step("legacy-ssl-off", reason=MENDS)


def _legacy(run: Run) -> bool:
    return any(host.get("ssl_legacy", False) for host in run.session.host.get_all_records().values())


# --- what plans need to know


def back(step: Step) -> Step:
    """The step that takes a mending one back. Raises `ValueError` for one that stays."""
    undo = KINDS[step.action].undo(step)
    if undo is None:
        raise ValueError(f"nothing takes {step.action} back")
    return replace(undo, reason="as it was before")


ACTIONS = frozenset(kind.name for kind in KINDS.values() if isinstance(kind, Mend))
"""The actions that mend, and those that take that back."""


def foreseen(pool: PoolFacts, steps: Iterable[Step]) -> PoolFacts:
    """The picture of the pool once mending `steps` are done."""
    for step in steps:
        kind = KINDS[step.action]
        if isinstance(kind, Mend):
            pool = kind.foresee(step, pool)
    return pool
