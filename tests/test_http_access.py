"""Handlers among the rest of the fake: roles decide over them, lists follow what they write, disks are read as they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from mockserver.handlers.running import Exchange
from mockserver.http import answer

from .test_http_handlers import ask, new_task, outcome

Make = Callable[..., Any]


def test_roles_decide_over_handlers_too(calls: Make) -> None:
    """Who lacks the permission gets 403, and the task that the request names fails with it; who has it is served."""
    c = calls(release="8.2", vms=4)
    c.pool.directory.connect(c.pool)
    sid = c.pool.directory.add("rita", password="pw")
    subject = c("subject.create", {"subject_identifier": sid, "other_config": {}})
    c("subject.add_to_roles", subject, c("role.get_by_name_label", "vm-operator")[0])
    rita = c.pool.dispatch("session.login_with_password", ["rita", "pw"])
    vm, task = c.vm("vm04").ref, new_task(c)
    out, text = ask(c, "GET", "/export", session_id=rita, ref=vm, task_id=task)
    assert (out.status, out.steps, text) == (403, None, b"<html><body><h1>HTTP 403</h1>Forbidden</body></html>")
    able = "pool-admin, pool-operator, vm-power-admin, vm-admin"
    status, (code, permission, told) = outcome(c, task)
    assert (status, code, permission) == ("failure", "RBAC_PERMISSION_DENIED", "http/get_export")
    assert set(told.partition("permission: ")[2].rstrip(")").split(", ")) == set(able.split(", "))
    assert ask(c, "GET", "/rrd_updates", session_id=rita, start="0")[0].status == 200
    assert ask(c, "GET", "/export", ref=vm)[0].status == 200


def test_what_a_transfer_writes_is_in_the_lists_at_once(calls: Make) -> None:
    """While an export goes on, when its client went away, and after a request that was refused."""
    c = calls(release="8.2", vms=4)
    vm, host = c.vm("vm04"), c.pool.machine("host1")
    before = list(vm["allowed_operations"])
    target = f"/export?session_id={c.session}&ref={vm.ref}"
    out = answer(c.pool, host, "GET", target, {}, b"", f"http://{host.address}")
    exchange = Exchange(c.pool, host, out.steps, io.BytesIO())
    assert list(vm["current_operations"].values()) == ["export"]
    assert "start" in before and "start" not in vm["allowed_operations"]
    exchange.close()
    assert (vm["current_operations"], vm["allowed_operations"]) == ({}, before)
    ask(c, "PUT", "/import_metadata", b"no archive")
    assert not c.pool.upkeep.stale


def test_an_exported_disk_has_the_database_of_now(calls: Make) -> None:
    """A disk that the pool's database is kept on holds what it is when somebody reads it."""
    c = calls(release="8.2")
    master = c.pool.store.pool()["master"]
    sr = c("SR.create", master, {}, 1 << 40, "lun", "", "lvmoiscsi", "user", True, {})
    c("SR.enable_database_replication", sr)
    (vdi,) = c("SR.get_VDIs", sr)
    c("network.create", {"name_label": "later", "other_config": {}})
    host = c.pool.machine("host1")
    out = answer(c.pool, host, "GET", f"/export_raw_vdi?session_id={c.session}&vdi={vdi}", {}, b"", "http://host1")
    exchange = Exchange(c.pool, host, out.steps, io.BytesIO())
    assert b'"later"' in next(iter(exchange))
    exchange.close()
