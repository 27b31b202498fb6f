"""Disks with bytes, guests that write to them, and the domains in which guests run.

A guest that runs writes a block of each of its disks every `WRITE_PERIOD` seconds and remembers, in its own ledger, what
it wrote. Nobody else touches the ledger, so comparing it with the disks shows whether data was lost, whatever the
database says. Writing is lazy: a domain catches up when somebody looks or when its state changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..journal import Kept

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..clock import Timer

WRITE_PERIOD = 10.0
"""Simulated seconds between two writes of a running guest."""
BLOCKS = 16
"""Blocks of a disk that a guest writes round and round."""
BLOCK_SIZE = 65536
"""Bytes of a block: block `n` begins at byte `n * BLOCK_SIZE` of its disk."""
_EMPTY = bytes(BLOCK_SIZE)


class Disk(Kept):
    """The content behind a VDI: sparse blocks. `writers` are the domains that have it open for writing; `marks` are the
    digests of blocks that were destroyed, where what is known of changes outlives them.

    A block is kept without the zeros at its end, one of zeros alone is not kept: the same bytes are always the same blocks.
    """

    writers: tuple[Domain, ...] = ()
    marks: dict[int, bytes] | None = None

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.blocks: dict[int, bytes] = {}

    def digests(self) -> dict[int, bytes]:
        """A digest of each block, also of those that were destroyed."""
        if self.marks is not None:
            return self.marks
        return {number: hashlib.sha256(block).digest() for number, block in self.blocks.items()}

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; zeros where nothing was written."""
        out = bytearray(size)
        for number in range(offset // BLOCK_SIZE, -(-(offset + size) // BLOCK_SIZE)):
            block = self.blocks.get(number)
            if block is not None:
                start = number * BLOCK_SIZE - offset
                part = block[max(0, -start) : size - start]
                out[max(0, start) : max(0, start) + len(part)] = part
        return bytes(out)

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`."""
        at = 0
        while at < len(data):
            number, inside = divmod(offset + at, BLOCK_SIZE)
            part = data[at : at + BLOCK_SIZE - inside]
            at += len(part)
            if len(part) < BLOCK_SIZE:
                old = self.blocks.get(number, b"").ljust(inside + len(part), b"\0")
                part = old[:inside] + part + old[inside + len(part) :]
            # Most of a disk is empty, and comparing is many times faster than stripping.
            part = b"" if part == _EMPTY else part.rstrip(b"\0")
            if part:
                self.blocks[number] = part
            else:
                self.blocks.pop(number, None)

    def used(self, size: int) -> list[int]:
        """The pieces of `size` bytes, a multiple of a block, that something was written to, by number."""
        return sorted({number * BLOCK_SIZE // size for number in self.blocks})

    def digest(self) -> str:
        """SHA-256 of the content."""
        sha = hashlib.sha256()
        for number in sorted(self.blocks):
            sha.update(b"%d:" % number)
            sha.update(self.blocks[number])
        return sha.hexdigest()


def report(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a guest's agent reports: it is replaced as a whole, and never changed, as values in the database are not."""
    return MappingProxyType(dict(fields))


def unaddressed(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same of a guest that has no addresses of its own, but those that go with its interfaces."""
    return MappingProxyType({name: value for name, value in fields.items() if name != "networks"})


@dataclass(eq=False)
class Guest(Kept):
    """The software inside a VM, across its starts and stops.

    `ledger` is what it wrote: disk uuid to blocks. `agent` is what its guest agent reports, the fields of its guest metrics
    as a `report`, None where it has none; it does so from `up_at` on, after the start counted by `boots`, when the timer
    `booting` fires. `saved_by` is the release that wrote its suspend image, `image` what was written, `started` when it was
    started that is in there, as XenAPI spells it, empty where nobody knows. `sources` are the data
    sources that somebody switched on, with since when they are recorded, or off (None), and `asked` says when a plugin was
    last called for it. `settled` says whether it is known if it has an agent: of a new VM it is when that is started.
    """

    uuid: str
    ledger: dict[str, dict[int, bytes]] = field(default_factory=dict)
    # A pool has many guests, most of which never come to have any of these: they are set when they do.
    writes: int = field(default=0, init=False)
    agent: Mapping[str, Any] | None = field(default=None, init=False)
    boots: int = field(default=0, init=False)
    up_at: float = field(default=0.0, init=False)
    booting: Timer | None = field(default=None, init=False)
    settled: bool = field(default=False, init=False)
    saved_by: Release | None = field(default=None, init=False)
    image: bytes | None = field(default=None, init=False)
    started: str = field(default="", init=False)
    sources: tuple[tuple[str, float | None], ...] = field(default=(), init=False)
    asked: float = field(default=float("-inf"), init=False)

    def write_before(self, disk: Disk) -> None:
        """Put on `disk` what this guest wrote before anybody looked; it is in the ledger like all that comes after."""
        content = f"{self.uuid} was installed on {disk.uuid}".encode()
        if disk.blocks.setdefault(BLOCKS, content) == content:
            self.ledger.setdefault(disk.uuid, {})[BLOCKS] = content

    def memory(self) -> bytes:
        """What a suspend image of this guest holds."""
        return f"memory of {self.uuid} after {self.writes} writes".encode()

    def save(self, disk: Disk, release: Release) -> None:
        """Write the guest's memory to a disk, by the software of `release`."""
        self.image = disk.blocks[0] = self.memory()
        self.saved_by = release

    def resume_from(self, other: Guest, disks: Iterable[Disk]) -> None:
        """Be in the state that `other` is in; what is on this guest's own `disks` must stay from now on."""
        self.settled, self.agent = other.settled, other.agent
        self.writes, self.image, self.saved_by = other.writes, other.image, other.saved_by
        self.started = other.started
        self.ledger = {disk.uuid: dict(disk.blocks) for disk in disks}


class Domain(Kept):
    """A guest running on a host. `disks` are those it writes to; while any of the storage in `stalled` (uuids) is out of
    reach, it does nothing. `asleep` says whether its guest put it to sleep: it does nothing, and nobody outside sees that.
    """

    guest: Guest
    host: str
    domid: int
    disks: tuple[Disk, ...]
    since: float
    running: bool
    stalled: tuple[str, ...]
    asleep: bool

    def __init__(
        self,
        guest: Guest,
        host: str,
        domid: int,
        disks: tuple[Disk, ...],
        since: float,
        running: bool = True,
        asleep: bool = False,
    ) -> None:
        vars(self).update(
            guest=guest,
            host=host,
            domid=domid,
            disks=disks,
            since=since,
            running=running,
            stalled=(),
            asleep=asleep,
        )
        for disk in disks:
            disk.writers = (*disk.writers, self)

    def catch_up(self, now: float) -> None:
        """Do the writes that fell due up to `now`."""
        due = int((now - self.since) / WRITE_PERIOD) if self.running and not self.stalled else 0
        if due <= 0:
            return
        self.since += due * WRITE_PERIOD
        guest = self.guest
        first = guest.writes + max(0, due - BLOCKS)
        guest.writes += due
        for number in range(first, guest.writes):
            block, content = number % BLOCKS, b"%s#%d" % (guest.uuid.encode(), number)
            for disk in self.disks:
                disk.blocks[block] = content
                guest.ledger.setdefault(disk.uuid, {})[block] = content

    def pause(self, now: float) -> None:
        self.catch_up(now)
        self.running = False

    def unpause(self, now: float) -> None:
        self.since, self.running = now, not self.asleep

    def fall_asleep(self, now: float) -> None:
        """The guest goes to sleep."""
        self.pause(now)
        self.asleep = True

    def wake_up(self, now: float) -> None:
        """Somebody wakes the guest."""
        self.asleep = False
        self.unpause(now)

    def stall(self, sr: str, now: float) -> None:
        """Wait for storage."""
        self.catch_up(now)
        if sr not in self.stalled:
            self.stalled = (*self.stalled, sr)

    def go_on(self, sr: str, now: float) -> None:
        """Storage is back: go on, if nothing else is waited for."""
        if sr in self.stalled:
            self.stalled = tuple(other for other in self.stalled if other != sr)
            self.since = now

    def open(self, disk: Disk, now: float) -> None:
        """Begin to write to `disk` too."""
        self.catch_up(now)
        if disk not in self.disks:
            self.disks = (*self.disks, disk)
            disk.writers = (*disk.writers, self)

    def close(self, disk: Disk, now: float) -> None:
        """Stop writing to `disk`."""
        self.catch_up(now)
        if disk in self.disks:
            self.disks = tuple(other for other in self.disks if other is not disk)
            self._leave(disk)

    def end(self, now: float) -> None:
        """The domain is gone; its disks are closed."""
        self.catch_up(now)
        self.running = False
        for disk in self.disks:
            self._leave(disk)
        self.disks = ()

    def _leave(self, disk: Disk) -> None:
        disk.writers = tuple(other for other in disk.writers if other is not self)


def damage(guest: Guest, disks: dict[str, Disk], *, only: Iterable[str] | None = None) -> Iterable[str]:
    """What `guest` wrote and no longer finds, one sentence a disk; `disks` are those that exist, by VDI uuid, `only` those
    that are looked at, of those that it wrote to."""
    for uuid in list(guest.ledger if only is None else only):
        blocks = guest.ledger[uuid]
        disk = disks.get(uuid)
        if disk is None:
            yield f"disk {uuid} is gone, with {len(blocks)} blocks that guest {guest.uuid} wrote"
            continue
        wrong = [number for number, content in blocks.items() if disk.blocks.get(number) != content]
        if wrong:
            yield f"disk {uuid}: {len(wrong)} of {len(blocks)} blocks are not what guest {guest.uuid} wrote"
