"""Pools made at random, large and small; the small ones' whole tree of possibilities, walked by brute force; and a referee
for plans.

Nothing here knows the planner: the rules of the pool are written down a second time, over plain facts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from xenctl.procedures.observe import HostFacts, PoolFacts, VMFacts
from xenctl.procedures.plan import Step
from xenctl.releases import find

GIB = 1 << 30
UPGRADES = {"4.0.1": "4.1.0", "6.0.0": "6.1.0"}
"""What the pools are upgraded to: before 6.0 nobody moves between old hosts once the master is new, since then they
do."""


def host(name: str, room: int = 8, storage: str = "shared", networks: str = "net", release: str = "4.0.1") -> HostFacts:
    """A host called `name` with `room` GiB for guests."""
    made = find(release)
    return HostFacts(
        *(name, name, name, name, made, made.product_version),
        enabled=True,
        live=True,
        room=room * GIB,
        storage=frozenset(storage.split()),
        networks=frozenset(networks.split()),
        hvm=True,
        unplugged=(),
    )


def vm(name: str, on: str = "", size: int = 2, storage: str = "shared", networks: str = "net") -> VMFacts:
    """A guest of `size` GiB that runs on the host `on`."""
    return VMFacts(
        *(name, name, name, "Running" if on else "Halted", on, size * GIB),
        storage=frozenset(storage.split()),
        networks=frozenset(networks.split()),
        hvm=False,
        discs=(),
        image="",
        stuck="",
        busy=(),
    )


def pool(hosts: list[HostFacts], vms: list[VMFacts]) -> PoolFacts:
    """A pool of these, the first host its master."""
    return PoolFacts(
        *("pool", "pool", "pool", hosts[0].uuid),
        ha_enabled=False,
        upgrading=False,
        hosts={h.uuid: h for h in hosts},
        vms={v.uuid: v for v in vms},
        storage_names={},
    )


def large_pool(seed: int, *, hosts: int = 64, vms: int = 5000, load: float = 0.8) -> PoolFacts:
    """A pool of exactly so many hosts and guests, which take `load` of its memory. A third of the guests are on storage that
    one host in four reaches, and the master."""
    dice = random.Random(seed)
    sizes = sorted((dice.choice((1, 2, 2, 4, 4, 8, 16)) for _ in range(vms)), reverse=True)
    room = int(sum(sizes) / load / hosts)
    made = [
        host(f"host{n:02}", room, "shared a b c d" if n == 0 else f"shared {'abcd'[n % 4]}", "net", "6.0.0")
        for n in range(hosts)
    ]
    free, guests = {h.name: room for h in made}, []
    for number, size in enumerate(sizes):
        storage = dice.choice("abcd") if dice.random() < 1 / 3 else "shared"
        on = dice.choice([h.name for h in made if storage in h.storage and free[h.name] >= size])
        free[on] -= size
        guests.append(vm(f"vm{number:04}", on, size, storage))
    return pool(made, guests)


def random_pool(seed: int, *, hosts: int = 4, vms: int = 8, release: str = "") -> PoolFacts:
    """A pool of at most so many hosts and guests: some storage and networks are not everywhere, and memory is short."""
    dice = random.Random(seed)
    release = release or dice.choice(list(UPGRADES))
    made = [
        host(
            name,
            dice.choice((8, 8, 10, 12, 16)),
            "shared" + dice.choice((" fast", " fast", "")),
            "net" + dice.choice((" lan", " lan", "")),
            release,
        )
        for name in "abcdefgh"[:hosts]
    ]
    free, guests = {h.name: h.room // GIB for h in made}, []
    for number in range(vms):
        needs = vm(
            f"vm{number}",
            size=dice.choice((1, 2, 2, 3, 4, 5, 6)),
            storage=dice.choice(("shared", "shared", "shared", "fast")),
            networks=dice.choice(("net", "net", "net", "lan")),
        )
        able = [h.name for h in made if sees(needs, h) and free[h.name] * GIB >= needs.memory]
        if able:
            on = dice.choice(able)
            free[on] -= needs.memory // GIB
            guests.append(replace(needs, host=on, state="Running"))
    tight = dice.choice((0.0, 0.3, 0.6, 0.9))
    made = [replace(h, room=h.room - int(free[h.name] * tight * dice.random()) * GIB) for h in made]
    return pool(made, guests)


def sees(vm: VMFacts, host: HostFacts) -> bool:
    """Whether a host has a guest's storage and networks."""
    return vm.storage <= host.storage and vm.networks <= host.networks


# --- every possibility


@dataclass(frozen=True)
class Best:
    """The best that can be reached: guests that end away from home, migrations, GiB moved. None where nothing can."""

    away: int
    moves: int
    gib: int


class BruteForce:
    """Every state of a pool of at most four hosts, walked from the start, one migration after another.

    A placement is a number with two bits for each guest, and a set of placements is a number with one bit for each of
    them, so that moving a guest in all of them at once is a shift. States are reached in the order of what they cost.
    With `memory` that is migrations, then GiB moved; without it migrations alone, and `gib` is 0.
    """

    def __init__(self, facts: PoolFacts, *, homes: bool = True, memory: bool = True) -> None:
        hosts = sorted(facts.hosts.values(), key=lambda h: h.uuid != facts.master)
        vms = list(facts.vms.values())
        index = {h.uuid: i for i, h in enumerate(hosts)}
        self.hosts, self.guests = range(len(hosts)), range(len(vms))
        self.sizes, self.memory = [v.memory // GIB for v in vms], memory
        self.rooms = [h.room // GIB for h in hosts]
        self.sees = [[sees(v, h) for h in hosts] for v in vms]
        self.sideways = facts.release >= find("6.0.0")
        self.places = 4 ** len(vms)
        self.on = [[self._with(guest, host) for host in range(4)] for guest in self.guests]
        self.fits = self._fitting()
        start = [index[v.host] for v in vms]
        self.start = 1 << sum(host << 2 * guest for guest, host in enumerate(start))
        self.ends = self._by_away(start) if homes else [(1 << self.places) - 1]
        self.best = self._walk()

    def _with(self, guest: int, host: int) -> int:
        """All placements with the guest on the host."""
        run = 4**guest
        block = ((1 << run) - 1) << host * run
        return block * (((1 << self.places) - 1) // ((1 << 4 * run) - 1))

    def _fitting(self) -> int:
        """The placements in which every guest sees what it needs, and every host has room."""
        bits, left = bytearray(-(-self.places // 8)), self.rooms[:]

        def put(guest: int, code: int) -> None:
            if guest == len(self.sizes):
                bits[code >> 3] |= 1 << (code & 7)
                return
            for host in self.hosts:
                if self.sees[guest][host] and left[host] >= self.sizes[guest]:
                    left[host] -= self.sizes[guest]
                    put(guest + 1, code | host << 2 * guest)
                    left[host] += self.sizes[guest]

        put(0, 0)
        return int.from_bytes(bits, "little")

    def _by_away(self, start: list[int]) -> list[int]:
        """The placements by how many guests are away from where they started."""
        out = [(1 << self.places) - 1] + [0] * len(start)
        for guest, host in enumerate(start):
            home, moved = self.on[guest][host], [0, *out[:-1]]
            out = [here & home | one_less & ~home for here, one_less in zip(out, moved, strict=True)]
        return out

    def _moved(self, placements: int, new: int) -> Iterator[tuple[int, int]]:
        """Each guest with the placements that come of moving it, wherever the pool would let it go."""
        for guest in self.guests:
            for at in self.hosts:
                there = placements & self.on[guest][at]
                for target in self.hosts if there else ():
                    forward = not new or new >> target & 1 or (self.sideways and not new >> at & 1)
                    if target != at and forward:
                        shift = (target - at) * 4**guest
                        yield guest, (there << shift if shift > 0 else there >> -shift) & self.fits

    def _walk(self) -> Best | None:
        whole = (1 << len(self.hosts)) - 1
        waiting: dict[tuple[int, int], dict[int, int]] = {(0, 0): {0: self.start}}
        seen: dict[int, int] = {}
        found: dict[int, Best] = {}
        while waiting and 0 not in found:
            cost = min(waiting)
            reached = waiting.pop(cost)
            for new in range(whole + 1):
                fresh = reached.get(new, 0) & ~seen.get(new, 0)
                if not fresh:
                    continue
                seen[new] = seen.get(new, 0) | fresh
                for turn in self.hosts:
                    if not new >> turn & 1 and (new & 1 or turn == 0):
                        empty = fresh
                        for guest in self.guests:
                            empty &= ~self.on[guest][turn]
                        reached[new | 1 << turn] = reached.get(new | 1 << turn, 0) | empty
                for away, end in enumerate(self.ends if new == whole else ()):
                    if fresh & end:
                        found.setdefault(away, Best(away, *cost))
                for guest, moved in self._moved(fresh, new):
                    price = (cost[0] + 1, cost[1] + (self.sizes[guest] if self.memory else 0))
                    states = waiting.setdefault(price, {})
                    states[new] = states.get(new, 0) | moved
            waiting = {price: states for price, states in waiting.items() if any(states.values())}
        return found[min(found)] if found else None


# --- the referee


@dataclass
class Refereed:
    """What a plan came to: guests that end away from home, migrations, bytes moved."""

    where: Mapping[str, str]
    moves: int = 0
    memory: int = 0


def referee(facts: PoolFacts, steps: tuple[Step, ...], new: str, growth: int = 0) -> Refereed:
    """Play the steps of a plan by the pool's rules. Raises `AssertionError` at the first one that a pool would
    refuse."""
    version = {h.uuid: h.release for h in facts.hosts.values()}
    target, where = find(new), {v.uuid: v.host for v in facts.vms.values() if v.host}
    enabled = {h.uuid: h.enabled for h in facts.hosts.values()}
    room = {h.uuid: h.room for h in facts.hosts.values()}
    used = {h: sum(facts.vms[v].memory for v, at in where.items() if at == h) for h in facts.hosts}
    out = Refereed(where)

    def take(uuid: str, host: str) -> None:
        guest = facts.vms[uuid]
        leave(uuid)
        assert enabled[host], f"{host} is disabled"
        assert sees(guest, facts.hosts[host]), f"{uuid} needs what {host} lacks"
        assert used[host] + guest.memory <= room[host], f"{host} has no room for {uuid}"
        where[uuid] = host
        used[host] += guest.memory

    def leave(uuid: str) -> None:
        if uuid in where:
            used[where.pop(uuid)] -= facts.vms[uuid].memory

    for step in steps:
        if step.action == "migrate":
            assert where[step.vm] == step.host
            oldest = (
                max(version.values()) if find("4.1.0") <= version[facts.master] < find("6.0.0") else version[step.host]
            )
            assert version[step.to] >= oldest, f"{step.vm} would go from {step.host} to {step.to}, which is older"
            take(step.vm, step.to)
            out.moves, out.memory = out.moves + 1, out.memory + facts.vms[step.vm].memory
        elif step.action in ("start", "resume"):
            assert version[step.to] == max(version.values()), f"{step.vm} would start on an older host"
            take(step.vm, step.to)
        elif step.action in ("stop", "suspend"):
            assert step.action == "stop" or len(set(version.values())) == 1, "suspending while versions are mixed"
            leave(step.vm)
        elif step.action in ("disable", "enable"):
            enabled[step.host] = step.action == "enable"
        elif step.action == "install":
            assert step.host not in where.values(), f"{step.host} is not empty"
            assert step.host == facts.master or version[facts.master] == target, "the master goes first"
            version[step.host] = target
            room[step.host] -= growth
        elif step.action == "return":
            enabled[step.host] = True
    assert set(version.values()) == {target}, "not every host is upgraded"
    assert all(enabled.values())
    return out
