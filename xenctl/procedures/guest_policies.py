"""What becomes of single guests in an upgrade, as the administrator says: read, checked, and what it costs.

`migrate` is what happens without a word. `suspend` keeps a guest suspended from before the first host's turn until all
versions are equal again, since nothing can be suspended or resumed in between. `shut-down` stops it for its host's turn.
`leave` keeps a suspended guest suspended throughout, which is resumed for the upgrade otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .estimate import Pace, said
from .observe import PoolFacts, VMFacts
from .planner.pieces import LEAVE, POLICIES, SHUT_DOWN, SUSPEND

if TYPE_CHECKING:
    from os import PathLike

    from .plan import Plan


def read(given: Iterable[str], file: str | PathLike[str] | None = None) -> dict[str, str]:
    """Policies by the guest's name or uuid, from texts `NAME=POLICY` and from a file with one such line each (`#` begins a
    remark). What is in `given` counts before what is in the file. Raises `ValueError` and `OSError`."""
    lines: list[tuple[str, str]] = []
    if file is not None:
        with open(file, encoding="utf-8") as text:
            for number, line in enumerate(text, 1):
                if line.partition("#")[0].strip():
                    lines.append((f"{file}, line {number}", line.partition("#")[0].strip()))
    out: dict[str, str] = {}
    for where, line in [*lines, *(("--vm", text) for text in given)]:
        name, _, policy = (part.strip() for part in line.rpartition("="))
        if not name or policy not in POLICIES:
            raise ValueError(f"{where}: {line!r} is not NAME=POLICY, the policy one of {', '.join(POLICIES)}")
        out[name] = policy
    return out


def resolved(pool: PoolFacts, named: Mapping[str, str]) -> dict[str, str]:
    """The same policies by uuid. Raises `ValueError`, with every fault, for guests that there are not, names that several
    have, and policies that a guest cannot have."""
    out: dict[str, str] = {}
    faults: list[str] = []
    for name, policy in named.items():
        found = [vm for vm in pool.vms.values() if name in (vm.uuid, vm.name)]
        if len(found) != 1:
            what = "no guest is called so" if not found else f"{len(found)} guests are called so; give the uuid"
            faults.append(f"{name}: {what}")
            continue
        (vm,) = found
        why = _against(vm, policy)
        if why:
            faults.append(f"{vm.name}: {why}")
        if out.setdefault(vm.uuid, policy) != policy:
            faults.append(f"{vm.name}: it is given {out[vm.uuid]} and {policy}; give one")
    if faults:
        raise ValueError(f"policies of guests: {'; '.join(faults)}")
    return out


def _against(vm: VMFacts, policy: str) -> str:
    """Why a guest cannot have a policy, empty where it can."""
    if policy in (LEAVE, SUSPEND) and vm.state == "Suspended" and vm.discs:
        return f"{policy} is not for a suspended guest with a CD in its drive: it could not be resumed any more"
    if policy in (SUSPEND, SHUT_DOWN) and vm.state not in ("Running", "Suspended"):
        return f"{policy} is for guests that run, and it is {vm.state}"
    return ""


def costs(plan: Plan) -> dict[str, str]:
    """What the plan costs each guest that it stops or suspends, by uuid, in words: about how long it is down."""
    return {vm: f"down for about {said(seconds)}" for vm, seconds in Pace.of(plan, ()).downtime(plan).items()}
