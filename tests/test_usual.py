"""What is allowed is looked up by facts: the same facts give the same list, whatever else differs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mockserver import MockPool, usual
from mockserver.store import NULL, Row
from mockserver.upkeep import STALE
from xenctl import datamodel
from xenctl.datamodel import types as t

TABLES = "VM VM_metrics VM_guest_metrics VBD VDI VIF SR PBD host host_metrics pool network".split()
KEYS = (
    "feature-suspend feature-shutdown feature-poweroff feature-reboot feature-vcpu-hotplug data-cant-suspend-reason on_boot "
    "caching default_template nomigrate nested-virt rolling_upgrade_in_progress allow_clone_suspended_vm is_system_domain "
    "xenserver_tools_sr major minor"
).split()
BESIDES = {"nomigrate", "nested_virt", "unpluggable", "type"}
"""Fields that checks look at though a write of them makes no list stale."""
LEFT_ALONE = {"uuid", "master", "VM", "allowed_operations"}
"""Fields without which a pool is none, and the answer itself."""


def made(rng: random.Random, pool: MockPool, kind: t.Type) -> Any:
    """A value of a type, such as a check may ask for."""
    if isinstance(kind, t.Scalar):
        texts = ("", "reset", "BIOS order", "nfs", "udev", "1")
        values = {"bool": (True, False), "int": (-1, 0, 1), "float": (0.0, 1.0), "string": texts}
        return rng.choice(values.get(kind.name, ("20260101T00:00:00Z",)))
    if isinstance(kind, t.Enum):
        return rng.choice(datamodel.load().enums[kind.name])
    if isinstance(kind, t.Ref):
        return rng.choice([NULL, *pool.store.table(kind.class_name)])
    if isinstance(kind, t.Set):
        return [made(rng, pool, kind.item) for _ in range(rng.choice((0, 0, 1, 2)))]
    if isinstance(kind, t.Map):
        keys = [rng.choice(KEYS) if isinstance(kind.key, t.Scalar) else made(rng, pool, kind.key) for _ in range(2)]
        return {str(key): made(rng, pool, kind.item) for key in keys[: rng.choice((0, 0, 1, 2))]}
    return ""


def change(rng: random.Random, pool: MockPool) -> None:
    """Write something to some row."""
    store = pool.store
    table = rng.choice([name for name in TABLES if store.table(name)])
    row: Row = rng.choice(list(store.table(table).values()))
    shape = store.shape(table)
    names = [name for name in shape.fields if name not in shape.far and name not in LEFT_ALONE]
    decisive = [name for name in names if (table, name) in STALE or name in BESIDES]
    name = rng.choice(decisive if decisive and rng.random() < 0.8 else names)
    store.write(row, **{name: made(rng, pool, shape.fields[name].type)})


@pytest.mark.parametrize("release", ["8.2", "6.1", "5.5"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_facts_give_the_same_list(release: str, seed: int) -> None:
    """Whatever is changed in a pool, a few fields at a time, most of them such as make lists stale."""
    rng, pool = random.Random(seed), MockPool.create(hosts=2, vms=4, release=release, seed=seed)
    known: dict[tuple[str, Any], list[str] | None] = {}
    hits = 0
    for turn in range(150):
        with pool.savepoint():
            for _ in range(rng.randrange(1, 4)):
                change(rng, pool)
            look = usual.Look(pool.store)
            for table, (of_row, work_out) in usual.ALIKE.items():
                for row in pool.store.table(table).values():
                    facts = of_row(look, row)
                    if facts is not None:
                        allowed = work_out(pool.store, row)
                        hits += (table, facts) in known
                        assert known.setdefault((table, facts), allowed) == allowed, f"seed {seed}, {turn}: {table}"
    assert hits > 500
