"""What hosts can go back to: what their backup partitions hold, as far as anybody sees it.

A partition holds one generation. Each installation that preserves a host overwrites it, so another upgrade ends the way back
of the one before. No call of XenAPI tells what is there. Hands that see a machine's disk do; else the note tells that an
upgrade of ours leaves in the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from .hands import on_disk

if TYPE_CHECKING:
    from .before import Before
    from .hands import Hands, OnDisk
    from .observe import PoolFacts

LOOK = "mount -o ro /dev/sda2 /mnt; grep PRODUCT_VERSION /mnt/etc/xensource-inventory"
"""What shows at a host's console what the backup partition of its first disk holds, in every release."""
FALLBACK = (
    "what is left is the dump from before: every host is installed afresh, and the database restored "
    "(xenctl upgrade revert --from-dump)"
)
"""What can be done without backup partitions."""


def ended(pool: PoolFacts, hosts: Collection[str], hands: Hands | None) -> list[str]:
    """The ways back of an earlier upgrade that end when `hosts`, by uuid, are installed with what preserves them, one
    sentence each. It stops nothing, so a person is not asked."""
    source, target = pool.upgraded
    held: dict[str, list[str]] = {}
    unseen = list[str]()
    for uuid in pool.hosts:
        if uuid in hosts:
            seen = None if getattr(hands, "talks", False) else on_disk(hands, uuid)
            if seen is None:
                unseen.append(uuid)
            elif seen.keeps and seen.keeps != pool.hosts[uuid].version:
                held.setdefault(seen.keeps, []).append(uuid)
    if unseen and source:
        held.setdefault(source, []).extend(unseen)
    out = []
    for version, uuids in held.items():
        names = _and(pool.hosts[uuid].name for uuid in uuids)
        known = "" if version != source or set(uuids) - set(unseen) else f", as the upgrade to {target} left them"
        out.append(
            f"the backup partitions of {names} hold {version} from an earlier upgrade{known}; each is overwritten, and the "
            f"way back to {version} ends there"
        )
    return out


def against(
    hosts: Iterable[tuple[str, str]], before: Before, hands: Hands | None, *, pool: str = "", master: str = ""
) -> tuple[list[str], list[str]]:
    """What stands against taking `hosts`, uuids with names, back by their backup partitions, and what is worth saying.

    `pool` is the uuid that the database must have that the host with the uuid `master` goes back to.
    """
    faults, unseen = list[str](), list[str]()
    for uuid, name in sorted(hosts, key=lambda host: host[1]):
        seen = on_disk(hands, uuid)
        if seen is None:
            unseen.append(name)
        else:
            faults += _faults(name, seen, before.source, pool if uuid == master else "")
    problems = [f"there is no way back by the backup partitions: {'; '.join(faults)}; {FALLBACK}"] if faults else []
    warnings = []
    if unseen and not faults:
        whose = f"the backup partitions of {_and(unseen)}, which have to hold {before.source}"
        warnings.append(f"nobody has looked at {whose}; at a host's console this shows it: {LOOK}")
    return problems, warnings


def again(pool: PoolFacts, before: Before) -> list[str]:
    """Why the note in the pool says that its hosts' backup partitions hold another release than that of `before`."""
    source, target = pool.upgraded
    if pool.hosts[pool.master].version != target or before.source in (source, target):
        return []
    held = f"the backup partitions hold {source}, not {before.source}"
    return [f"the pool was upgraded from {source} to {target} since: {held}; this is a point of no return; {FALLBACK}"]


def _faults(name: str, seen: OnDisk, source: str, pool: str) -> Iterator[str]:
    """Why a host does not come back by what is on its disk. One that still has the old system boots that."""
    if seen.installed == source:
        return
    if seen.keeps != source:
        holds = f"holds {seen.keeps}" if seen.keeps else "holds nothing that can be restored"
        yield f"that of {name} {holds}, not {source}"
    elif pool and seen.database is not None and seen.database != pool:
        whose = "the database of another pool" if seen.database else "no database"
        yield f"that of {name} holds {source} with {whose}"


def _and(names: Iterable[str]) -> str:
    """Names as a sentence has them."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
