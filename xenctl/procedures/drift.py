"""What is not as a plan expects it: somebody else was at work, or a guest went down by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..errors import ProcedureError
from .observe import PoolFacts
from .plan import Plan

ENABLED: Mapping[str, bool] = {"enable": True, "disable": False}
"""Whether a host is enabled after a step."""


class Astray(ProcedureError):
    """The pool is not as the plan expects. `ours` says that the run itself had to leave its plan, and `master` that the
    master is another."""

    def __init__(self, why: str, found: Sequence[str], *, ours: bool = False, master: bool = False) -> None:
        super().__init__(why, found)
        self.ours, self.master = ours, master


def _of_hosts(plan: Plan, steps: int, now: PoolFacts) -> Iterator[str]:
    """How hosts differ from what they are to be."""
    versions = {host.uuid: host.before for host in plan.hosts}
    enabled = {host.uuid: host.enabled for host in plan.hosts}
    live = {host.uuid: host.live for host in plan.hosts}
    for step in plan.steps[:steps]:
        if step.action in ENABLED:
            enabled[step.host] = ENABLED[step.action]
        elif step.action == "return":  # that waits until all of them are
            enabled, live = dict.fromkeys(enabled, True), dict.fromkeys(live, True)
            versions[step.host] = step.release or versions[step.host]
    for uuid, host in now.hosts.items():
        if uuid not in versions:
            continue
        if plan.target and host.version != versions[uuid]:
            yield f"{host.name} runs {host.version}, and is to run {versions[uuid]}"
        if live[uuid] and not host.live:
            yield f"{host.name} is not running any more"
        elif host.live and enabled[uuid] and not host.enabled:
            yield f"{host.name} was disabled"


def differences(plan: Plan, steps: int, now: PoolFacts, excused: Collection[str] = ()) -> list[str]:
    """How the pool differs from what it is to be once the first `steps` steps of `plan` are done, one sentence each. The
    guests in `excused` may be down."""
    out = []
    if plan.master and now.master != plan.master:
        out.append(f"the master is {now.hosts[now.master].name}, and was {plan.names[plan.master]}")
    if now.ha_enabled:
        out.append("high availability was switched on")
    planned = {host.uuid: host.name for host in plan.hosts}
    out += [f"{host.name} has joined the pool" for host in now.hosts.values() if host.uuid not in planned]
    out += [f"{name} has left the pool" for uuid, name in planned.items() if uuid not in now.hosts]
    out += _of_hosts(plan, steps, now)
    expected = plan.expected(steps)
    for uuid, vm in now.vms.items():
        if uuid not in expected:
            out.append(f"{vm.name} is new")
            continue
        wanted = expected[uuid]
        if uuid in excused and vm.state == "Halted":
            continue
        if vm.state != wanted.state:
            out.append(f"{vm.name} is {vm.state}, and is to be {wanted.state}")
        elif wanted.state == "Running" and vm.host != wanted.host:
            names = {host: facts.name for host, facts in now.hosts.items()}
            at, to = names.get(vm.host, "no host"), plan.names.get(wanted.host, "no host")
            out.append(f"{vm.name} is on {at}, and is to be on {to}")
    out += [f"{plan.names[uuid]} is gone" for uuid in expected if uuid not in now.vms]
    return out
