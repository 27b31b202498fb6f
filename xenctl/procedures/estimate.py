"""How long steps take: by what such steps took so far in this run, and by usual times before the first of them.

Moving a guest, suspending and resuming it are counted by its memory; everything else by the step. Of what was measured the
median counts, so that one long wait for a person does not spoil it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from .acts import KINDS
from .journal import Timing
from .plan import Plan, Step

MIB = 1 << 20
USUAL: Mapping[str, float] = {
    "backup": 60.0,
    "halt": 180.0,
    "install": 1800.0,
    "reinstall": 1800.0,
    "boot-installer": 1800.0,
    "restore-host": 1800.0,
    "install-afresh": 1800.0,
    "reboot": 600.0,
    "apply": 300.0,
    "apply-synced": 600.0,
    "return": 600.0,
    "equal": 300.0,
    "start": 60.0,
    "stop": 60.0,
}
"""Seconds that steps take where nothing was measured yet."""
OTHERS = 5.0
"""The same for every other step."""
BY_MEMORY: Mapping[str, float] = {"migrate": 50.0 * MIB, "suspend": 50.0 * MIB, "resume": 50.0 * MIB}
"""Steps that take as long as memory has to be copied, and bytes a second where nothing was measured yet."""


@dataclass(frozen=True)
class Pace:
    """What steps take, in seconds; those of `BY_MEMORY` in bytes a second. What is in neither is as usual."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, timings: Sequence[Timing]) -> Pace:
        """What was measured so far."""
        took: dict[str, list[float]] = {}
        for timing in timings:
            action = timing.step.action
            if action not in BY_MEMORY:
                took.setdefault(action, []).append(timing.took)
            elif timing.took > 0 and plan.memory(timing.step.vm):
                took.setdefault(action, []).append(plan.memory(timing.step.vm) / timing.took)
        measured = {action: median(values) for action, values in took.items()}
        return cls(
            {action: value for action, value in measured.items() if action not in BY_MEMORY},
            {action: value for action, value in measured.items() if action in BY_MEMORY},
        )

    def step(self, plan: Plan, step: Step) -> float:
        """Seconds that a step of `plan` takes."""
        if step.action in BY_MEMORY and plan.memory(step.vm):
            return plan.memory(step.vm) / self.rates.get(step.action, BY_MEMORY[step.action])
        return self.seconds.get(step.action, USUAL.get(step.action, OTHERS))

    def steps(self, plan: Plan, first: int, last: int) -> float:
        """Seconds that the steps from number `first` up to `last` take, both included."""
        return sum(self.step(plan, step) for step in plan.steps[first - 1 : last])

    def downtime(self, plan: Plan) -> dict[str, float]:
        """Seconds that guests which ran when the run began will be down, by uuid: those that the plan stops or suspends."""
        ran = {vm.uuid for vm in plan.vms if vm.state == "Running"}
        states: list[tuple[str, str, float]] = []
        now = 0.0
        for step in plan.steps:
            began, now = now, now + self.step(plan, step)
            shows = KINDS[step.action].shows
            if shows and step.vm in ran:
                states.append((step.vm, shows, now if shows == "Running" else began))
        return down_for(states, now)


def down_for(states: Iterable[tuple[str, str, float]], end: float) -> dict[str, float]:
    """Seconds for which guests do not run, by uuid, by the power states that they come to be in, oldest first, each with its
    moment. Who is down last is so until `end`."""
    down: dict[str, float] = {}
    since: dict[str, float] = {}
    for vm, state, at in states:
        if state != "Running":
            since.setdefault(vm, at)
        elif vm in since:
            down[vm] = down.get(vm, 0.0) + at - since.pop(vm)
    for vm, at in since.items():
        down[vm] = down.get(vm, 0.0) + max(0.0, end - at)
    return down


def turn_ends(plan: Plan, number: int) -> int:
    """The number of the last step of the turn that step `number` is in: the next one begins another, or waits for all."""
    for following, step in enumerate(plan.steps[number:], number + 1):
        if step.action in ("turn", "equal", "left out"):
            return following - 1
    return len(plan.steps)


def turn_of(plan: Plan, number: int) -> str:
    """The uuid of the host in whose turn step `number` is, empty where it is in none."""
    host = ""
    for step in plan.steps[:number]:
        if step.action == "turn":
            host = step.host
        elif step.action in ("equal", "left out"):
            host = ""
    return host


def said(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `17 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
