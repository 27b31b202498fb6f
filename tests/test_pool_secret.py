"""Rotating the pool's secret: every host takes the new one, and a rotation that failed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from mockserver import MockPool, PoolServer
from mockserver.classes.host_secret import CHECKPOINT
from mockserver.machine.host import NEW_SECRET, OLD_SECRET
from mockserver.trace import Trace
from xenctl.errors import Failure

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    """Three hosts of the newest release."""
    return calls(release="8.4", hosts=3)


def secrets(c: Any) -> list[tuple[str, ...]]:
    """What each host takes, the one that it sends first."""
    return [machine.system.secrets for machine in c.pool.machines]


def refused(c: Any, secret: str, host: str = "host1") -> bool:
    """Whether a host refuses a toolstack's login with `secret`."""
    try:
        c.pool.dispatch("session.slave_login", [c.host(host).ref, secret], c.pool.machine(host))
    except Failure as error:
        return error.params[-1] == "Pool credentials invalid"
    return False


def test_every_host_has_another_secret_and_takes_the_old_one_no_more(c: Any) -> None:
    """Nothing of the rotation is left on the disks."""
    (old,) = {machine.system.pool_secret for machine in c.pool.machines}
    c("pool.rotate_secret")
    (new,) = {machine.system.pool_secret for machine in c.pool.machines}
    assert new != old and secrets(c) == [(new,)] * 3 and len(new.split("/")) == 3
    assert [refused(c, old), refused(c, new), refused(c, old, "host3"), refused(c, new, "host3")] == [True, False] * 2
    assert all(machine.system.files == {} for machine in c.pool.machines)
    assert c.pool.store.pool()["is_psr_pending"] is False
    c.halt("host2")
    c.pool.hands.power_on("host2")
    c.back()
    assert c.pool.machine("host2").xapi.mode == "member"


def test_a_host_that_is_known_to_be_away_is_named_before_anything_begins(c: Any) -> None:
    (before,) = {machine.system.pool_secret for machine in c.pool.machines}
    host = c.host("host3").ref
    c.halt("host3")
    assert c.refused("pool.rotate_secret") == ["CANNOT_CONTACT_HOST", host]
    assert secrets(c) == [(before,)] * 3 and not c.pool.store.pool()["is_psr_pending"]


REASONS = {
    "ha_enabled": (True, ["HA_IS_ENABLED"]),
    "other_config": ({"rolling_upgrade_in_progress": "true"}, ["NOT_SUPPORTED_DURING_UPGRADE"]),
    "current_operations": (
        {"a": "eject", "b": "ha_enable"},
        ["INTERNAL_ERROR", "pool operations in progress: [ eject; ha_enable ]"],
    ),
    "restrictions": ({"restrict_pool_secret_rotation": "true"}, ["LICENCE_RESTRICTION", "Pool_secret_rotation"]),
}


@pytest.mark.parametrize("field", REASONS)
def test_what_keeps_a_pool_from_rotating(c: Any, field: str) -> None:
    """And the pool is not marked then."""
    value, error = REASONS[field]
    pool = c.pool.store.pool()
    c.pool.store.write(pool, **{field: value})
    assert c.refused("pool.rotate_secret") == error and not pool["is_psr_pending"]


def test_a_rotation_that_fails_stays_pending_and_is_gone_on_with(c: Any) -> None:
    """By the same new secret. Meanwhile the hosts that were told take both, and no other operation begins."""
    pool, machine = c.pool.store.pool(), c.pool.machine("host3")
    task = c.start("pool.rotate_secret")
    c.until(lambda: len(c.pool.machine("host2").system.secrets) == 2)
    assert c.refused("pool.rotate_secret") == ["INTERNAL_ERROR", "pool secret rotation already running"]
    c.pool.hands.power_off("host3")
    c.until(lambda: task["status"] != "pending")
    text = "Operation to tell host3 to begin accepting new pool secret failed."
    assert task["error_info"] == ["INTERNAL_ERROR", text]
    assert pool["is_psr_pending"] and c.pool.master.system.files[CHECKPOINT] == b"Accept_new_pool_secret"
    both = c.pool.master.system.secrets
    assert secrets(c) == [both, both, both[:1]]
    assert [refused(c, secret) for secret in both] == [False, False]
    assert c.refused("pool.enable_tls_verification") == ["POOL_SECRET_ROTATION_PENDING"]
    c.pool.hands.power_on("host3")
    c.until(lambda: machine.state == "running" and machine.xapi.complete)
    c("pool.rotate_secret")
    assert secrets(c) == [both[1:]] * 3 and not pool["is_psr_pending"]


def test_a_host_that_missed_the_rotation_is_no_longer_known(c: Any) -> None:
    """As one is that comes back with the disk of before."""
    machine, old = c.pool.machine("host2"), c.pool.master.system.pool_secret
    c("pool.rotate_secret")
    machine.system.pool_secret = old
    c.halt("host2")
    c.pool.hands.power_on("host2")
    c.until(lambda: machine.state == "running" and machine.xapi.error[0] == "HOST_UNKNOWN_TO_MASTER")
    assert machine.xapi.mode == "emergency"


def test_the_steps_check_what_a_host_has(c: Any) -> None:
    """Each may come twice, none out of turn, and none with other secrets."""
    host, system = c.host("host2").ref, c.pool.machine("host2").system
    old, new = system.pool_secret, "a/b/c"
    step = {
        "accept": "notify_accept_new_pool_secret",
        "send": "notify_send_new_pool_secret",
        "clean": "cleanup_pool_secret",
    }

    def tell(what: str, before: str = old, after: str = new) -> str:
        try:
            return str(c(f"host.{step[what]}", host, before, after))
        except Failure as error:
            return error.params[0]

    assert tell("send") == "failed to read backups"
    assert tell("clean") == "cleanup_internal: host has been cleaned up, but pool secret doesn't match"
    assert tell("accept", "x") == "notify_new: old pool secret doesn't match"
    assert tell("accept") == tell("accept") == "" and system.secrets == (old, new)
    assert tell("accept", after="x") == tell("send", after="x") == "backups don't match"
    assert tell("clean") == "cleanup_internal: runtime secrets don't match"
    assert tell("send") == tell("send") == "" and system.secrets == (new, old)
    assert tell("accept") == "notify_new: existing pool secrets are inconsistent"
    assert tell("clean", "x") == "cleanup_internal: runtime secrets don't match"
    assert tell("clean") == tell("clean") == "" and system.secrets == (new,)
    system.files = {CHECKPOINT: b"Send_new_pool_secret"}
    for what in step:
        assert tell(what) == "pool member should not have a checkpoint"


def test_a_member_is_given_another_secret(c: Any) -> None:
    """As when it joins a pool; that is for toolstacks alone."""
    host, secret = c.host("host2").ref, c.pool.master.system.pool_secret
    session = c.pool.dispatch("session.slave_login", [host, secret])
    c.pool.dispatch("host.update_pool_secret", [session, host, "a/b/c"])
    assert c.pool.machine("host2").system.secrets == ("a/b/c",)
    assert c.refused("host.update_pool_secret", host, "x")[0] == "INTERNAL_ERROR"


def test_handlers_take_both_while_the_secret_is_rotated() -> None:
    pool = MockPool.create(hosts=1, vms=0, release="8.4")
    system = pool.master.system
    system.files = {OLD_SECRET: system.pool_secret.encode(), NEW_SECRET: b"a/b/c"}
    with PoolServer(pool) as server:

        def status(secret: str) -> int:
            query = {"pool_secret": secret}
            return requests.get(f"{server.url}/pool/xmldbdump", params=query, timeout=10).status_code

        assert [status(system.pool_secret), status("a/b/c"), status("other")] == [200, 200, 401]


def test_a_trace_tells_neither_secret(c: Any) -> None:
    """Nor the passwords and keys that are sent for directories and certificates."""
    pool, host = c.pool, c.host("host1").ref
    before = pool.master.system.pool_secret
    with Trace(pool) as trace:
        c("pool.rotate_secret")
        after = pool.master.system.pool_secret
        c("host.notify_accept_new_pool_secret", host, after, "Hush-1")
        config = {"user": "Administrator", "pass": "Hush-2"}
        c.refused("host.enable_external_auth", host, config, "example.com", "AD")
        c.refused("host.install_server_certificate", host, "nonsense", "Hush-3", "")
    text = "".join(json.dumps(vars(record), default=vars) for record in trace)
    assert "notify_accept_new_pool_secret" in text
    assert not [secret for secret in (before, after, "Hush") if secret in text]
