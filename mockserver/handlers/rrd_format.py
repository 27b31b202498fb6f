"""How hosts spell what they measured, by release, and how they choose between XML and JSON."""

from __future__ import annotations

from collections.abc import Callable
from math import isinf, isnan
from typing import TYPE_CHECKING, Final

from .. import rules
from .base import Answer, Request
from .running import Binding, done

if TYPE_CHECKING:
    from xenctl.errors import Failure
    from xenctl.releases import Release

KINDS: Final = ("application/json", "text/xml")
"""The content types of answers."""
ANYWHERE: Final = {"access-control-allow-origin": "*"}
EXTREMES: Final = "create_min_max_in_new_VM_RRDs"
"""The key of the pool's `other_config` that has more than averages kept of VMs."""
PROLOGUE: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'


def numbers(release: Release) -> Callable[[float], str]:
    """How a host of `release` writes a number: with four decimals, since XenServer 8 with five digits."""
    spec = ".5g" if release.order >= rules.NILE else ".4f"

    def text(value: float) -> str:
        if isnan(value):
            return "NaN"
        if isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return format(value, spec) if value else "0.0"

    return text


def guests_have_extremes(request: Request) -> bool:
    """Whether minima and maxima are kept of VMs; of hosts they always are."""
    return bool(request.pool.store.pool()["other_config"].get(EXTREMES) == "true")


def binding_of(request: Request) -> Binding | None:
    """The task that a request names. What hosts tell of measurements makes none of its own."""
    return Binding(request, "") if request.arguments.get("task_id") else None


def told(binding: Binding | None, answer: Answer, error: Failure | None = None) -> Answer:
    """`answer`, with the task ended if there is one."""
    return answer if binding is None else done(binding, answer, error)


def prefers_json(request: Request) -> bool:
    """Whether the client gets JSON: by its header `Accept`, looked at since XenServer 8, JSON where both are as welcome;
    where that welcomes neither or cannot be read, by having an argument `json`."""
    accept = request.headers.get("accept", "") if request.machine.system.release.order >= rules.NILE else ""
    try:
        welcome = [_weighed(part) for part in accept.split(",") if part]
    except ValueError:
        welcome = []
    for weight in sorted({weight for weight, _ in welcome}, reverse=True):
        ranges = [name for at, name in welcome if at == weight]
        found = [kind for kind in KINDS if any(_matches(kind, name) for name in ranges)]
        if found:
            return found[0] == KINDS[0]
    return "json" in request.arguments


def _weighed(part: str) -> tuple[float, str]:
    """One member of `Accept`: how welcome it is, and what. Raises `ValueError`. Blanks count, as for xapi."""
    name, *params = part.split(";")
    if name.count("/") != 1 or not all("=" in param for param in params):
        raise ValueError(part)
    weights = [param[2:] for param in params if param.startswith("q=")]
    return (float(weights[0]) if weights else 1.0), name


def _matches(kind: str, name: str) -> bool:
    main, _, sub = name.partition("/")
    return main == "*" or (main == kind.partition("/")[0] and sub in ("*", kind.partition("/")[2]))
