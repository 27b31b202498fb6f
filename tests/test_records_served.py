"""Many records as bytes: those of rows that stay are kept, and are never older than the rows."""

from __future__ import annotations

import random

import pytest

from mockserver import MockPool
from mockserver.call import serve, serve_json
from xenctl import jsonrpc, xmlrpc

RELEASE = "8.2"


def served(pool: MockPool, session: str) -> tuple[bytes, bytes]:
    """`VM.get_all_records` in both protocols."""
    xml = serve(pool, pool.master, xmlrpc.dumps_call("VM.get_all_records", (session,)))
    json, _ = serve_json(pool, pool.master, jsonrpc.dumps_call("VM.get_all_records", (session,)))
    return xml, json


def plain(pool: MockPool, session: str) -> tuple[bytes, bytes]:
    """The same made from values, all of it anew."""
    value = pool.dispatch("VM.get_all_records", [session])
    return xmlrpc.dumps_success(value), jsonrpc.dumps_success(value, jsonrpc.Call("VM.get_all_records", []))


@pytest.fixture
def pool() -> MockPool:
    return MockPool.create(hosts=1, vms=3, release=RELEASE)


def login(pool: MockPool) -> str:
    return str(pool.dispatch("session.login_with_password", ["root", "secret"]))


@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_follow_every_change(pool: MockPool, seed: int) -> None:
    """Writes, rollbacks after which generations come again, VMs that come and go."""
    rng, session = random.Random(seed), login(pool)
    points = []
    for turn in range(60):
        vms = list(pool.store.table("VM").values())
        act = rng.choice(["write", "write", "create", "delete", "savepoint", "rollback", "relate", "upgrade"])
        if act == "write":
            pool.store.write(rng.choice(vms), name_label=f"<{rng.random()}> & größer")
        elif act == "create":
            pool.store.create("VM", pool.new_ref(), {"uuid": pool.new_uuid(), "name_label": str(turn)})
        elif act == "delete" and len(vms) > 2:
            pool.store.delete(vms[-1])
        elif act == "savepoint":
            points.append(pool.savepoint())
        elif act == "rollback" and points:
            pool.rollback(points[-1])
        elif act == "relate":
            pool.store.write(rng.choice(vms), resident_on=rng.choice(["OpaqueRef:NULL", *pool.store.table("host")]))
        elif act == "upgrade":
            pool.store.restart()
            session = login(pool)
        if pool.store.find("session", session) is None:
            session = login(pool)
        assert served(pool, session) == plain(pool, session), f"seed {seed}, turn {turn}, {act}"


def test_one_change_makes_one_record_anew(pool: MockPool) -> None:
    """The others are the very same bytes."""
    before = pool.store.encoded("VM", xmlrpc.member)
    pool.store.write(next(iter(pool.store.table("VM").values())), name_label="changed")
    after = pool.store.encoded("VM", xmlrpc.member)
    assert len(after) == len(before)
    assert sum(new is not old for new, old in zip(after, before, strict=True)) == 1


def test_a_release_that_knows_more_fields_tells_them(pool: MockPool) -> None:
    """Also of rows whose bytes were kept."""
    old = MockPool.create(hosts=1, vms=1, release="6.1")
    old.store.encoded("VM", xmlrpc.member)
    old.store.upgrade(pool.store.release)
    told = b"".join(old.store.encoded("VM", xmlrpc.member))
    assert b"<name>domain_type</name>" in told
