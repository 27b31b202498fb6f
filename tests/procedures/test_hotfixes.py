"""The hotfixes that the vendor's wizard wants on hosts that install themselves."""

from __future__ import annotations

import pytest
from pools import connected, row

from mockserver import MockPool
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.checks import Finding
from xenctl.procedures.checks.hotfixes import HOTFIXES, Hotfix
from xenctl.releases import find
from xenctl.session import Session


def warned(session: Session) -> list[Finding]:
    """What the check finds where hosts install themselves."""
    plan = rolling_upgrade.plan(session, url="http://10.0.0.77/medium")
    return [finding for finding in plan.findings if finding.check == "hotfix"]


def patched(pool: MockPool, uuid: str, **applied: bool) -> None:
    """Bring a hotfix to the pool that is applied to these hosts, or is not yet, as the release says it."""
    hosts = {row(pool, "host", name).ref: done for name, done in applied.items()}
    if pool.machines[0].system.release < find("7.1"):
        patch = pool.store.create("pool_patch", pool.new_ref(), {"uuid": uuid, "name_label": "RPU"})
        for host, done in hosts.items():
            fields = {"uuid": pool.new_uuid(), "host": host, "pool_patch": patch.ref, "applied": done}
            pool.store.create("host_patch", pool.new_ref(), fields)
        return
    update = pool.store.create("pool_update", pool.new_ref(), {"uuid": uuid, "name_label": "RPU"})
    for host, done in hosts.items():
        if done:
            pool.store.write(pool.store.get("host", host), updates=[update.ref])


@pytest.mark.parametrize(
    ("release", "hotfix"),
    [
        ("6.2", "RPU001"),
        ("6.5", "RPU002"),
        ("7.0", "RPU003"),
        *((name, "RPU004") for name in ("7.1", "7.6")),
        ("8.2", "RPU005"),
        *((name, "") for name in ("6.1", "8.0", "8.1", "XCP-ng 8.2")),
    ],
)
def test_a_host_that_installs_itself_lacks_the_hotfix_of_its_release(release: str, hotfix: str) -> None:
    """A warning for each host, on releases that have one; nothing where somebody boots a medium."""
    pool = MockPool.create(release=release, hosts=2, vms=0)
    with connected(pool) as session:
        findings = warned(session)
        assert "hotfix" not in {finding.check for finding in rolling_upgrade.plan(session).findings}
    assert [finding.name for finding in findings] == (["host1", "host2"] if hotfix else [])
    assert all(f"lacks the hotfix {hotfix}" in f.why and f.level == "warns" for f in findings)


@pytest.mark.parametrize("hotfix", HOTFIXES, ids=lambda hotfix: hotfix.name)
def test_a_hotfix_that_is_applied_is_not_missed(hotfix: Hotfix) -> None:
    """Each uuid of it counts; another hotfix, and one that is not applied yet, do not."""
    release = ".".join(str(part) for part in hotfix.first[:2])
    for uuid in hotfix.uuids:
        pool = MockPool.create(release=release, hosts=2, vms=0)
        patched(pool, uuid, host1=True, host2=False)
        patched(pool, pool.new_uuid(), host2=True)
        with connected(pool) as session:
            findings = warned(session)
        assert [finding.name for finding in findings] == ["host2"]
