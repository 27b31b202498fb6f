"""What is lost with a host, and what is not: where its guests can be started, and what was on its own storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .observe import PoolFacts, VMFacts
from .placement import GIB, Board, reachable

if TYPE_CHECKING:
    from ..session import Session


@dataclass(frozen=True)
class Losing:
    """The guests of a host that was lost. `to` holds the uuid of the host where each can be started, by uuid and in the
    order of starting; `left` says of each of the others why it cannot be."""

    host: str
    to: Mapping[str, str]
    left: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pool: PoolFacts, host: str) -> Losing:
        """What can be done for the guests of the host with this uuid: each goes where it prefers to be, else where most room
        is, and never to a host below the pool's highest release, which would refuse it."""
        board, to, left = Board.of(pool), dict[str, str](), dict[str, str]()
        others = [other for other in pool.hosts.values() if other.uuid != host and other.enabled and other.live]
        newest = max((other.release.order for other in pool.hosts.values()), default=0)
        able = [other.uuid for other in others if other.release.order == newest]
        for vm in sorted(board.on(host), key=lambda vm: (vm.order, -vm.memory, vm.name)):
            target = board.best(vm, able, vm.affinity)
            if target is None:
                left[vm.uuid] = f"{vm.name} cannot be started elsewhere: {_why(pool, board, vm, able)}"
            else:
                board.move(vm, target)
                to[vm.uuid] = target
        return cls(host, to, left)

    def as_args(self) -> dict[str, Any]:
        """What a step that starts the guests needs, as JSON can carry it."""
        return {"vms": [list(pair) for pair in self.to.items()]}


def _why(pool: PoolFacts, board: Board, vm: VMFacts, able: list[str]) -> str:
    """Why a guest has no place on any of the hosts in `able`."""
    if not able:
        return "no other host is enabled, alive and of the pool's highest release"
    fitting = [uuid for uuid in able if reachable(vm, pool.hosts[uuid])]
    if fitting:
        most = max(board.free[uuid] for uuid in fitting)
        return f"it needs {vm.memory / GIB:.1f} GiB, and the most that is left is {most / GIB:.1f} GiB"
    only = sorted(vm.storage - frozenset().union(*(pool.hosts[uuid].storage for uuid in able)))
    if only:
        return (
            f"its disks are on storage that no other host reaches ({', '.join(pool.storage_names[sr] for sr in only)})"
        )
    return "no other host has all of its storage and networks, and the processor for it"


@dataclass(frozen=True)
class OwnStorage:
    """A storage repository that only one host reaches. `disks` are the names of the disks on it, with the guest of each;
    removable `media` are none."""

    ref: str
    uuid: str
    name: str
    disks: tuple[str, ...]
    media: bool


def own_storage(session: Session, host: str) -> list[OwnStorage]:
    """The storage that goes with the host with this reference: not shared, and connected to it alone."""
    pbds, srs = session.PBD.get_all_records(), session.SR.get_all_records()
    vdis, vbds, vms = session.VDI.get_all_records(), session.VBD.get_all_records(), session.VM.get_all_records()
    out = []
    for ref, sr in srs.items():
        hosts = {pbds[pbd].host for pbd in sr.PBDs if pbd in pbds}
        if sr.shared or hosts != {host}:
            continue
        disks = []
        for disk in (vdis[vdi] for vdi in sr.VDIs if vdi in vdis):
            users = sorted(
                {
                    vms[vbds[v].VM].name_label
                    for v in disk.VBDs
                    if v in vbds and vbds[v].VM in vms and vbds[v].type != "CD"
                }
            )
            of = f" of {', '.join(users)}" if users else ""
            disks.append(f"{disk.name_label or disk.uuid}{of}")
        media = sr.content_type == "iso" or sr.type == "udev"
        out.append(OwnStorage(ref, sr.uuid, sr.name_label, () if media else tuple(sorted(disks)), media))
    return out
