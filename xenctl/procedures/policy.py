"""What a run does by itself where things are not as planned: the policies of drift, of guests that went down, of hosts that
fail, and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STOP, REPLAN = ON_DRIFT = ("stop", "replan")
"""What becomes of a run before a host's turn where the pool is not as the plan expects: it stops, or plans the rest anew and
goes on. A changed master always stops it."""
IGNORE, RESTART, REPORT = ON_FALLEN = ("ignore", "restart", "report")
"""What becomes of guests that are down when a host is back, and ran when it went: they are nobody's business (for procedures
that shut guests down themselves), are started again where they may run, or are left down; the last two are told."""


@dataclass(frozen=True)
class Policy:
    """The policies of one run. With `skip_failed` the first member that fails is left out, if the pool stays whole without
    it; `timeouts` are seconds by the name of a stage of waiting (see `waiting`), where the usual are not right."""

    on_drift: str = STOP
    on_fallen: str = IGNORE
    skip_failed: bool = False
    timeouts: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, known in (("on_drift", ON_DRIFT), ("on_fallen", ON_FALLEN)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}: {value!r} is none of {', '.join(known)}")
