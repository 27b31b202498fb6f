"""What is asked before each host's turn, and may stop the run there: a person, a maintenance window, a number of hosts.

Each is a `Gate`: called with the run and the step that begins the turn, it answers why to stop, or nothing. They are asked
once more before the first step of a run, so that nothing is prepared for a turn that does not come.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

from .estimate import Pace, said, turn_ends
from .journal import PAUSE

if TYPE_CHECKING:
    from .plan import Step
    from .running import Run


@dataclass
class Approve:
    """Asks before each host. `ask` answers yes or no, and None where there is nobody to ask."""

    ask: Callable[[str], bool | None]
    agreed: set[str] = field(default_factory=set)

    def __call__(self, run: Run, step: Step) -> str:
        name = run.plan.names[step.host]
        if step.host in self.agreed:
            return ""
        answer = self.ask(f"Begin with {name}?")
        if answer:
            self.agreed.add(step.host)
            return ""
        return (
            f"{name} was not approved" if answer is False else f"{name} is to be approved, and nobody is there to ask"
        )


@dataclass(frozen=True)
class Window:
    """The time of day, local, in which hosts may be begun: each only if its estimated time is over before `end`. `now` tells
    the time."""

    begin: time
    end: time
    now: Callable[[], datetime]

    @classmethod
    def parse(cls, text: str, now: Callable[[], datetime] | None = None) -> Window:
        """The window called `HH:MM-HH:MM`; one that ends before it begins goes over midnight. Raises `ValueError`."""
        found = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", text.strip())
        try:
            hours = [int(number) for number in found.groups()] if found is not None else [99, 0, 0, 0]
            begin, end = time(hours[0], hours[1]), time(hours[2], hours[3])
        except ValueError:
            raise ValueError(f"window: {text!r} is not of the form HH:MM-HH:MM, such as 22:00-06:00") from None
        if begin == end:
            raise ValueError(f"window: {text!r} begins when it ends; leave it out to begin hosts at any time")
        return cls(begin, end, now or _wall)

    def left(self) -> float | None:
        """Seconds until it closes, None where it is closed."""
        now = self.now()
        opened = now.replace(hour=self.begin.hour, minute=self.begin.minute, second=0, microsecond=0)
        if opened > now:
            opened -= timedelta(days=1)
        closes = opened.replace(hour=self.end.hour, minute=self.end.minute)
        if closes <= opened:
            closes += timedelta(days=1)
        return (closes - now).total_seconds() if now < closes else None

    def __call__(self, run: Run, step: Step) -> str:
        name, left = run.plan.names[step.host], self.left()
        window = f"the maintenance window {self.begin:%H:%M}-{self.end:%H:%M}"
        if left is None:
            return f"{window} is closed: it is {self.now():%H:%M}"
        pace, first = Pace.of(run.plan, run.journal.timings()), run.number
        turn = next(
            n for n, other in enumerate(run.plan.steps, 1) if other.action == "turn" and other.host == step.host
        )
        needed = pace.steps(run.plan, first, turn_ends(run.plan, max(turn, first)))
        if needed > left:
            return f"{name} takes about {said(needed)}, and {window} ends in {said(left)}"
        return ""


@dataclass
class StopAfter:
    """Stops once so many hosts had their turn in this run, or the host of this name (or uuid) had."""

    limit: str

    def check(self, plan_names: dict[str, str]) -> None:
        """Raise `ValueError` where the limit is neither a number nor one of the hosts, by uuid."""
        if not self.limit.isdigit() and self.limit not in {*plan_names, *plan_names.values()}:
            known = ", ".join(sorted(plan_names.values()))
            raise ValueError(f"stop-after: {self.limit!r} is neither a number nor a host of the plan ({known})")
        if self.limit == "0":
            raise ValueError("stop-after: 0 hosts are none: give 1 or more")

    def __call__(self, run: Run, step: Step) -> str:
        if self.limit.isdigit():
            count = int(self.limit)
            return f"{count} host{'s' * (count != 1)} done, as asked" if len(run.turned) >= count else ""
        done = {name for uuid in run.begun for name in (uuid, run.plan.names[uuid])} - {step.host}
        return f"{self.limit} is done, as asked" if self.limit in done else ""


@dataclass(frozen=True)
class Settle:
    """Lets `seconds` pass between one host and the next."""

    seconds: float

    def __call__(self, run: Run, step: Step) -> str:
        if run.turned:
            run.pass_time(self.seconds)
        return ""


def paused_from_outside(run: Run, step: Step) -> str:
    """Stops where the journal was asked to pause the run, as `pause` does."""
    asked = run.journal.get(PAUSE)
    if not asked:
        return ""
    run.journal.put(PAUSE, "")
    return str(asked)


def _wall() -> datetime:
    return datetime.now().astimezone()
