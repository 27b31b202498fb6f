"""The checks before a rolling upgrade: what each finds, on which release, how bad it is; and that none fails anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pem import certificate, key, public
from pools import RELEASES, connected, pin, row, write

from mockserver import MockPool
from xenctl.procedures import checks, rolling_upgrade
from xenctl.procedures.acts import KINDS
from xenctl.procedures.checks import CHECKS, Finding, Survey, surveyed
from xenctl.procedures.checks.keys import rsa_bits
from xenctl.procedures.checks.survey import Answers
from xenctl.procedures.plan import Plan
from xenctl.releases import known
from xenctl.session import connect

GIB = 1 << 30


def to_pool(pool: MockPool, **fields: Any) -> None:
    pool.store.write(pool.store.pool(), **fields)


def add(pool: MockPool, kind: str, **fields: Any) -> Any:
    return pool.store.create(kind, pool.new_ref(), {"uuid": pool.new_uuid(), **fields})


def found(plan: Plan, check: str) -> list[Finding]:
    return [finding for finding in plan.findings if finding.check == check]


def master_pif(pool: MockPool) -> Any:
    host = row(pool, "host", "host1").ref
    return next(pif for pif in pool.store.table("PIF").values() if pif["host"] == host)


def unplug(pool: MockPool, sr: str, host: str) -> None:
    at = row(pool, "host", host).ref
    pbd = next(p for p in pool.store.table("PBD").values() if p["SR"] == row(pool, "SR", sr).ref and p["host"] == at)
    pool.store.write(pbd, currently_attached=False)


def paths(pool: MockPool, host: str, *counts: str) -> None:
    """Have the storage manager of a host count paths: those of a disk each."""
    at = row(pool, "host", host).ref
    pbd = next(p for p in pool.store.table("PBD").values() if p["host"] == at and p["SR"] == nfs(pool))
    keys = {f"mpath-3600a0b8{number}": text for number, text in enumerate(counts)}
    pool.store.write(pbd, other_config={"multipathed": "true", **keys})


def nfs(pool: MockPool) -> str:
    return str(row(pool, "SR", "NFS virtual disk storage").ref)


def second_sr(pool: MockPool, **fields: Any) -> None:
    add(pool, "SR", **{"name_label": "Other storage", "shared": True, "content_type": "user", **fields})


def other_network(pool: MockPool, vm: str) -> None:
    """Put a guest on a network that only its own host is on."""
    network, guest = add(pool, "network", name_label="storage net", bridge="xenbr9"), row(pool, "VM", vm)
    add(pool, "PIF", host=guest["resident_on"], network=network.ref, device="eth9", MAC="00:16:3e:99:00:01", VLAN=-1)
    vif = next(v for v in pool.store.table("VIF").values() if v["VM"] == guest.ref)
    pool.store.write(vif, network=network.ref)


def licence(pool: MockPool, **params: str) -> None:
    host = row(pool, "host", "host2")
    pool.store.write(host, license_params={**host["license_params"], **params})


def task(pool: MockPool) -> None:
    session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    pool.dispatch("task.create", [session, "export", ""])


def older(pool: MockPool, host: str) -> None:
    told = row(pool, "host", host)["software_version"]
    write(pool, "host", host, software_version={**told, "product_version": "4.0.0"})


SINCE = {release: RELEASES[RELEASES.index(release) :] for release in RELEASES}


def case(
    check: str,
    releases: tuple[str, ...],
    change: Callable[[MockPool], Any],
    level: str,
    said: str,
    to: str | None = None,
) -> list[Any]:
    return [pytest.param(check, release, change, level, said, to, id=f"{check}-{release}") for release in releases]


CASES = [
    *case("ha", SINCE["5.0"], lambda p: to_pool(p, ha_enabled=True), "blocks", "high availability is on"),
    *case("wlb", SINCE["5.6"], lambda p: to_pool(p, wlb_enabled=True), "blocks", "workload balancing is on"),
    *case(
        *("auto-power-on", RELEASES, lambda p: to_pool(p, other_config={"auto_poweron": "true"}), "blocks"),
        "the pool starts guests by itself when a host starts",
    ),
    *case(
        *("auto-power-on", RELEASES[:4], lambda p: write(p, "VM", "vm04", other_config={"auto_poweron": "true"})),
        *("blocks", "vm04 is started by itself"),
    ),
    *case(
        *("schedules", ("5.6.100",), lambda p: schedule(p, "VMPP", is_policy_enabled=True), "warns"),
        "the schedule nightly may take snapshots",
    ),
    *case(
        *("schedules", ("8.2",), lambda p: schedule(p, "VMSS", enabled=True), "warns"),
        "the schedule nightly may take snapshots",
    ),
    *case(
        *("operations", RELEASES, task, "warns"),
        "a task is not over: export (pending)",
    ),
    *case(
        *("operations", RELEASES, lambda p: to_pool(p, current_operations={"OpaqueRef:t": "ha_enable"}), "blocks"),
        "has an operation going on (ha_enable)",
    ),
    *case(
        *("operations", RELEASES, lambda p: write(p, "VM", "vm01", current_operations={"OpaqueRef:t": "clone"})),
        *("blocks", "vm01 has an operation going on (clone)"),
    ),
    *case(
        *("other-run", RELEASES, lambda p: to_pool(p, other_config={"xenctl-run": "r-1"}), "blocks"),
        "another run (r-1) is at work",
    ),
    *case(
        *("forbidden", RELEASES, lambda p: to_pool(p, other_config={"hci-forbid-rpu": "true"}), "blocks"),
        "somebody forbids rolling upgrades",
    ),
    *case(
        *("vswitch-controller", ("7.1",), lambda p: to_pool(p, vswitch_controller="10.0.0.99"), "warns"),
        *("the vSwitch controller at 10.0.0.99", "8.2"),
    ),
    *case("legacy-ssl", ("7.1",), lambda p: None, "warns", "old TLS is on (host1, host2)", "8.2"),
    *case(
        *("health-check", ("7.1",), lambda p: to_pool(p, health_check_config={"Enrollment": "true"}), "warns"),
        *("is enrolled in the vendor's health check", "8.2"),
    ),
    *case("clustering", ("7.5",), lambda p: second_sr(p, type="gfs2"), "blocks", "GFS2 storage (Other storage)"),
    *case("clustering", ("8.2",), lambda p: second_sr(p, type="gfs2"), "warns", "GFS2 storage (Other storage)"),
    *case("host-disabled", RELEASES, lambda p: write(p, "host", "host2", enabled=False), "blocks", "host2 is disabled"),
    *case(
        *("host-disabled", RELEASES),
        lambda p: write(p, "host", "host2", enabled=False, other_config={"MAINTENANCE_MODE": "true"}),
        *("blocks", "host2 is disabled (in maintenance mode)"),
    ),
    *case(
        *("host-down", RELEASES, lambda p: (p.machine("host2").power_off(), p.clock.advance(700)), "blocks"),
        "host2 is not running",
    ),
    *case("same-address", RELEASES, lambda p: write(p, "host", "host2", address="10.0.0.1"), "blocks", "same address"),
    *case(
        *("silent-member", RELEASES, lambda p: setattr(p.machine("host2"), "address", "10.9.9.9"), "blocks"),
        "host2 does not answer at 10.0.0.2",
    ),
    *case(
        *("cpu-vendor", RELEASES),
        lambda p: [
            p.store.write(cpu, vendor="AuthenticAMD")
            for cpu in p.store.table("host_cpu").values()
            if cpu["host"] == row(p, "host", "host2").ref
        ],
        *("blocks", "processors are of different vendors"),
    ),
    *case(
        *("cpu-features", RELEASES[:3]),
        lambda p: [
            p.store.write(cpu, flags="fpu vme" + (" sse4_1" if cpu["host"] == row(p, "host", "host2").ref else ""))
            for cpu in p.store.table("host_cpu").values()
        ],
        *("warns", "the processor of host2 has what others lack (sse4_1)"),
    ),
    *case(
        *("cpu-features", ("5.6", "6.2")),
        lambda p: (cpu_info(p, "host1", features="00000001"), cpu_info(p, "host2", features="00000003")),
        *("warns", "the processor of host2 has what others lack (feature 1)"),
    ),
    *case(
        *("cpu-features", ("7.1", "8.2")),
        lambda p: booted_with(p, "vm03", "00000007", host1="00000007", host2="00000003"),
        *("blocks", "vm03 runs with processor features that are missing on host2; it can move nowhere"),
    ),
    *case("disk-layout", ("6.5",), lambda p: pin(p, "vm02", "host2"), "warns", "local storage is in use", "7.0"),
    *case("disk-layout", ("6.2",), lambda p: None, "warns", "is not known here", "7.0"),
    *case("dom0-memory", ("7.1",), lambda p: None, "warns", "takes 5.3 GiB more after the upgrade", "8.2"),
    *case(
        *("power-on", ("7.1",), lambda p: write(p, "host", "host2", power_on_mode="iLO"), "warns"),
        *("host2 is switched on by iLO", "8.2"),
    ),
    *case(
        *("packages", RELEASES),
        lambda p: write(
            *(p, "host", "host2"),
            software_version={**row(p, "host", "host2")["software_version"], "xs:transfer-vm": "Transfer VM"},
        ),
        *("warns", "host2 has packages that the installer does not bring back: transfer-vm"),
    ),
    *case(
        *("iscsi-name", RELEASES[:6]),
        lambda p: [
            p.store.write(host, other_config={"iscsi_iqn": "iqn.2007-01.com.example:one"})
            for host in p.store.table("host").values()
        ],
        *("warns", "host1, host2 have the same iSCSI name: iqn.2007-01.com.example:one"),
    ),
    *case(
        *("iscsi-name", ("8.2",)),
        lambda p: [p.store.write(host, iscsi_iqn="iqn.x") for host in p.store.table("host").values()],
        *("warns", "host1, host2 have the same iSCSI name: iqn.x"),
    ),
    *case("guest-state", RELEASES, lambda p: write(p, "VM", "vm01", power_state="Paused"), "blocks", "vm01 is paused"),
    *case(
        "guest-state", RELEASES, lambda p: write(p, "VM", "vm01", power_state="Odd"), "blocks", "XenAPI does not have"
    ),
    *case(
        *("pv-drivers", RELEASES, lambda p: write(p, "VM", "vm03", guest_metrics="OpaqueRef:NULL"), "blocks"),
        "vm03 can neither migrate nor be shut down cleanly: it has no paravirtual drivers",
    ),
    *case(
        *("devices", ("4.0.1", "5.6")),
        lambda p: write(p, "VM", "vm02", guest_metrics="OpaqueRef:NULL", HVM_boot_policy=""),
        *("warns", "vm02 is shut down when its host is upgraded: it has no paravirtual drivers"),
    ),
    *case("suspended", RELEASES, lambda p: None, "warns", "vm06 is suspended: it is resumed"),
    *case(
        *("suspended", RELEASES, lambda p: write(p, "VM", "vm06", suspend_VDI="OpaqueRef:NULL"), "blocks"),
        "vm06 is suspended and its suspend image is gone",
    ),
    *case("discs", RELEASES, lambda p: None, "warns", "CDs are taken out at the start and put back at the end: vm02"),
    *case(
        *("devices", RELEASES, lambda p: write(p, "VM", "vm01", other_config={"pci": "0/0000:04:01.0"}), "warns"),
        "vm01 is shut down when its host is upgraded: a PCI device is passed through to it",
    ),
    *case(
        *("devices", ("6.2", "7.1", "8.2"), lambda p: add(p, "VGPU", VM=row(p, "VM", "vm01").ref), "warns"),
        "it has a virtual GPU",
    ),
    *case(
        *("local-storage", RELEASES, lambda p: pin(p, "vm02", "host2"), "warns"),
        "it has a disk on storage that only its host reaches (Local storage on host2)",
    ),
    *case(
        *("blocked-operations", SINCE["5.0"]),
        lambda p: write(p, "VM", "vm01", blocked_operations={"pool_migrate": "pinned by hand"}),
        *("blocks", "pool_migrate of vm01 is blocked by somebody (pinned by hand)"),
    ),
    *case(
        "pv-guests", ("XCP-ng 8.1",), lambda p: None, "warns", "vm01 is paravirtualised (PV), which is not supported"
    ),
    *case(
        "pv-guests", ("7.1",), lambda p: None, "warns", "vm01 is paravirtualised (PV), which is not supported", "8.2"
    ),
    *case(
        "pv-guests",
        ("8.2",),
        lambda p: None,
        "blocks",
        "vm01 is paravirtualised (PV): such guests do not start from 8.2.1 on",
    ),
    *case(
        *("sockets", RELEASES, lambda p: write(p, "VM", "vm01", platform={"cores-per-socket": "2"}), "warns"),
        "vm01 has 1 VCPUs, which sockets of 2 cores do not make up",
    ),
    *case(
        *("unplugged", RELEASES, lambda p: unplug(p, "NFS virtual disk storage", "host2"), "warns"),
        "host2: NFS virtual disk storage is not plugged",
    ),
    *case(
        *("storage-paths", SINCE["4.1"], lambda p: paths(p, "host2", "[2, 4]"), "warns"),
        "host2: NFS virtual disk storage has 2 of 4 paths (SCSI id 3600a0b80)",
    ),
    *case(
        *("storage-paths", RELEASES, lambda p: write(p, "host", "host2", other_config={"mpath-boot": "[1, 2]"})),
        *("warns", "host2: the disk that it boots from has 1 of 2 paths"),
    ),
    *case(
        *("storage-reach", RELEASES, lambda p: unplug(p, "NFS virtual disk storage", "host2"), "warns"),
        "NFS virtual disk storage is not reached from host2; guests that need it: vm01",
    ),
    *case("storage-gone", ("6.0",), lambda p: second_sr(p, type="cslg"), "blocks", "is StorageLink storage", "6.1"),
    *case("storage-gone", ("7.1", "8.2"), lambda p: second_sr(p, type="lvmofcoe"), "warns", "software FCoE storage"),
    *case(
        "network-reach",
        RELEASES,
        lambda p: other_network(p, "vm01"),
        "warns",
        "storage net is not on host2; guests that need it: vm01",
    ),
    *case(
        "master-address", SINCE["4.1"], lambda p: None, "warns", "the master host1 has its address 10.0.0.1 from DHCP"
    ),
    *case("network-files", ("4.0.1", "4.1"), lambda p: None, "warns", "drops network files and bonds"),
    *case(
        *("network-files", ("4.0.1",), lambda p: p.store.write(master_pif(p), device="bond0"), "warns"),
        "host1 has bonds that were made by hand, which the installer drops: bond0",
    ),
    *case(
        *("licence-over", RELEASES[:4], lambda p: licence(p, expiry="20070101T00:00:00Z"), "blocks"),
        "the licence of host2 ended on 20070101T00:00:00Z: no guest starts or resumes there",
    ),
    *case(
        *("licence-over", RELEASES[4:], lambda p: licence(p, expiry="20070101T00:00:00Z"), "warns"),
        "the licence of host2 ended",
    ),
    *case("edition", ("5.6", "6.2"), lambda p: licence(p, restrict_pooling="true"), "warns", "a licence without pools"),
    *case("edition", ("7.1",), lambda p: licence(p, restrict_xen_motion="true"), "blocks", "without live migration"),
    *case("terms-of-use", ("8.2",), lambda p: None, "warns", "has terms of use", "8.4"),
    *case("one-host", RELEASES, lambda p: None, "blocks", "the pool has one host"),
    *case(
        *("version-unknown", ("4.0.1",)),
        lambda p: [
            p.store.write(h, software_version={**h["software_version"], "product_version": "4.0.9"})
            for h in p.store.table("host").values()
        ],
        *("warns", "host1 runs 4.0.9, which is not known here; it is taken for XenServer 4.0.1"),
    ),
    *case("versions-mixed", RELEASES, lambda p: older(p, "host2"), "blocks", "versions are mixed already"),
    *case(
        *("restart-pending", ("7.1", "8.2")),
        lambda p: write(p, "host", "host2", updates_requiring_reboot=[add(p, "pool_update", name_label="U1").ref]),
        *("warns", "host2 waits for a restart after an update"),
    ),
    *case("target", RELEASES[1:], lambda p: None, "blocks", "an upgrade only goes forward", "4.0.1"),
    *case(
        *("capacity", RELEASES, lambda p: no_room(p), "blocks"),
        "no way was found to empty the hosts one after another",
    ),
    *case(
        *("homecoming", RELEASES[:-1]),
        lambda p: [
            p.store.write(pbd, currently_attached=False)
            for pbd in p.store.table("PBD").values()
            if pbd["SR"] == row(p, "SR", "ISO library").ref
        ],
        *("warns", "the CD of vm02 is not put back"),
    ),
]


def schedule(pool: MockPool, kind: str, **fields: Any) -> None:
    made = add(pool, kind, name_label="nightly", **fields)
    field = "protection_policy" if kind == "VMPP" else "snapshot_schedule"
    write(pool, "VM", "vm01", **{field: made.ref})


def test_features_that_an_older_release_noted_are_not_taken_for_others() -> None:
    """A guest that came from 6.5 has them in another order; a host of 7.0 tells what that release would."""
    pool = MockPool.create(release="7.0", hosts=2, vms=8)
    mild(pool)
    write(pool, "VM", "vm01", last_boot_CPU_flags={"features": "0000e3bd-bfebfbff-00000001-20100800"})
    with connected(pool) as session:
        assert list(found(rolling_upgrade.plan(session), "cpu-features")) == []
        cpu_info(pool, "host2", features="0000e3bc-bfebfbff-00000001-20100800")
        (finding,) = found(rolling_upgrade.plan(session), "cpu-features")
    assert "vm01 runs with processor features that are missing on host2" in finding.why


def cpu_info(pool: MockPool, host: str, **info: str) -> None:
    write(pool, "host", host, cpu_info={**row(pool, "host", host)["cpu_info"], **info})


def booted_with(pool: MockPool, vm: str, features: str, **hosts: str) -> None:
    write(pool, "VM", vm, last_boot_CPU_flags={"vendor": "GenuineIntel", "features": features})
    for host, has in hosts.items():
        cpu_info(pool, host, features_hvm=has, features_pv=has)


def no_room(pool: MockPool) -> None:
    for machine in pool.machines:
        host = pool.host_row(machine)
        assert host is not None
        pool.store.write(host, boot_free_mem=6 * GIB)
        pool.store.write(pool.store.get("host_metrics", host["metrics"]), memory_total=6 * GIB)


def mild(pool: MockPool) -> None:
    """Make guests HVM where the next release would not start them, so that nothing but the case stands out."""
    for vm in pool.store.table("VM").values():
        if not vm["is_control_domain"]:
            pool.store.write(vm, HVM_boot_policy="BIOS order")


@pytest.mark.parametrize(("check", "release", "change", "level", "said", "to"), CASES)
def test_a_check_finds_what_it_is_for(
    check: str, release: str, change: Callable[[MockPool], Any], level: str, said: str, to: str | None
) -> None:
    """On each release that has the thing: where it is, how bad, why in a sentence, and how to mend it."""
    pool = MockPool.create(release=release, hosts=1 if check == "one-host" else 2, vms=8)
    if check != "pv-guests":
        mild(pool)
    change(pool)
    with connected(pool) as session:
        plan = rolling_upgrade.plan(session, to)
        findings = [finding for finding in found(plan, check) if said in finding.why]
    assert findings, plan.findings
    assert {finding.level for finding in findings} == {level}
    assert all(finding.mend and finding.kind and finding.uuid for finding in findings)
    told = plan.problems if level == "blocks" else plan.warnings
    assert any(said in text for text in told)
    assert bool(plan.steps) == (not plan.problems)


def test_every_check_is_tried() -> None:
    """A check without a case here, or in a test of its own, is none that anybody has seen find anything."""
    own = {"clock", "certificate-key", "medium", "hotfix"}
    assert {case.values[0] for case in CASES} | own == {check.name for check in CHECKS}


@pytest.mark.parametrize("release", [release.name for release in known()])
def test_no_check_fails_on_any_release(release: str) -> None:
    """What a release does not have is not found there, and nothing is raised; nothing is changed either."""
    pool = MockPool.create(release=release, hosts=2, vms=8)
    before = contents(pool)
    with connected(pool) as session:
        plan = rolling_upgrade.plan(session)
        assert contents(pool) == before
    assert {finding.check for finding in plan.findings if finding.stands} <= {"target", "pv-guests"}


def contents(pool: MockPool) -> dict[str, Any]:
    """What is in a pool's tables; sessions and tasks come and go."""
    tables = (table for table in pool.store.model.classes if table not in ("session", "task"))
    return {name: {ref: dict(r) for ref, r in pool.store.table(name).items()} for name in tables}


class Told(Answers):
    """Answers as a test wants them."""

    def __init__(self, *, clocks: Mapping[str, float] | None = None, pem: str = "", **plugins: str) -> None:
        self.clocks, self.pem, self.plugins = clocks or {}, pem, plugins

    def servertime(self, host: str) -> float | None:
        return self.clocks.get(host)

    def plugin(self, host: str, function: str) -> str | None:
        return self.plugins.get(function)

    def certificate(self, host: str) -> str | None:
        return self.pem or None


def told(pool: MockPool, to: str, **answers: Any) -> Plan:
    """The plan of a pool whose hosts answer so."""
    mild(pool)
    with connected(pool) as session:
        seen: Survey = replace(surveyed(session), ask=Told(**answers))
        return rolling_upgrade.make_plan(seen.facts, to, survey=seen)


def test_a_clock_that_is_wrong_is_told_with_its_way() -> None:
    """Against the master's clock, not against that of whoever asks: both may be wrong together."""
    pool = MockPool.create(release="8.2", hosts=3, vms=0)
    first, second, third = (row(pool, "host", f"host{n}").ref for n in (1, 2, 3))
    (finding,) = found(told(pool, "8.4", clocks={first: 500.0, second: 410.0, third: 510.0}), "clock")
    assert (finding.name, finding.why) == ("host2", "the clock of host2 is 90 seconds behind the master's")


def test_a_short_key_is_found_where_the_target_minds() -> None:
    """From 8.2 on; a key that is long enough, or of another kind, is no finding."""
    made: dict[str, list[Finding]] = {}
    for name, pem in {
        "short": public(certificate(signed=key("rsa", 1024))),
        "long": public(certificate(signed=key())),
        "curve": public(certificate(signed=key("ec"))),
        "none": "no certificate",
    }.items():
        made[name] = found(told(MockPool.create(release="7.1", vms=0), "8.2", pem=pem), "certificate-key")
    assert [finding.name for finding in made.pop("short")] == ["host1", "host2", "host3"]
    assert made == {"long": [], "curve": [], "none": []}


def test_the_length_of_a_key_is_read_from_its_certificate() -> None:
    """For every size, and nothing for what is cut off."""
    for size in (1024, 2048, 3072):
        pem = public(certificate(signed=key("rsa", size)))
        assert rsa_bits(pem) == size
    lines = public(certificate(signed=key())).splitlines()
    assert rsa_bits("\n".join([*lines[:5], lines[-1]])) is None


@pytest.mark.parametrize(
    ("answer", "target", "level", "said"),
    [
        ("true", "8.3", None, ""),
        ("legacy_partition_table", "8.3", "blocks", "it has a DOS partition table; the installer refuses it"),
        ("utility_part_present", "8.3", "blocks", "a utility partition is in the way"),
        ("not_enough_space", "8.3", "blocks", "there is not enough space"),
    ],
)
def test_a_layout_that_the_installer_refuses_blocks(answer: str, target: str, level: str | None, said: str) -> None:
    """From 8.3 on, in the words of the host's own plugin."""
    pool = MockPool.create(release="XCP-ng 8.2", hosts=2, vms=0)
    findings = found(told(pool, target, testSafe2Upgrade=answer), "disk-layout")
    assert {finding.level for finding in findings} == ({level} if level else set())
    assert all(said in finding.why for finding in findings)


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ("8.2.0", []),
        ("8.1.0", ["cannot install itself from that URL: the medium there is of 8.1.0, not of 8.2.0"]),
        ("7.6.0", ["cannot install itself from that URL: the medium at the URL is older than what the host runs"]),
        ("", ["cannot install itself from that URL: there is no installation medium at the URL"]),
    ],
)
def test_hosts_that_install_themselves_look_at_the_medium(published: str, said: list[str]) -> None:
    """Each is asked by its own plugin, and what stands there has to be the target."""
    pool, url = MockPool.create(release="8.0", hosts=2, vms=0), "http://10.0.0.77/medium"
    if published:
        pool.hands.publish(url, published)
    with connected(pool) as session:
        whys = [finding.why for finding in found(rolling_upgrade.plan(session, "8.2", url=url), "medium")]
    assert whys == [f"{host} {text}" for host in ("host1", "host2") for text in said]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (("[4, 4]",), []),
        (("[1, 2, -1, -1]", "[2, 2, 1, 1]", "[0, 2]"), ["has 1 of 2 paths (SCSI id 3600a0b80)", "has 0 of 2 paths"]),
        (("", "[]", "[1]", "one of two", "[1, x]"), []),
    ],
)
def test_paths_are_counted_as_the_storage_manager_writes_them(counts: tuple[str, ...], said: list[str]) -> None:
    """With what old releases add; of each disk by itself. What is no count is none, nor is that of storage not plugged."""
    pool = MockPool.create(release="6.2", hosts=2, vms=0)
    paths(pool, "host1", *counts)
    paths(pool, "host2", "[1, 2]")
    unplug(pool, "NFS virtual disk storage", "host2")
    with connected(pool) as session:
        whys = [finding.why for finding in found(rolling_upgrade.plan(session), "storage-paths")]
    assert len(whys) == len(said)
    assert all(text in why and "host1" in why for text, why in zip(said, whys, strict=True))


def test_a_plugin_that_knows_the_medium_says_how_much_memory_it_takes() -> None:
    """Rather than the table; a control domain that is larger already keeps what it has."""
    pool = MockPool.create(release="7.1", hosts=2, vms=0)
    (first, _) = found(told(pool, "8.2", getDom0DefaultMemory=str(2 * GIB)), "dom0-memory")
    assert first.why == "the control domain of host1 takes 1.5 GiB more after the upgrade"
    assert found(told(pool, "8.2", getDom0DefaultMemory=str(GIB // 2)), "dom0-memory") == []


@pytest.mark.parametrize(
    ("crowd", "said"), [(3, []), (4, ["has pools of 3 hosts at most from 7.3 on, and this one has 4"])]
)
def test_the_free_edition_has_small_pools_from_7_3_on(crowd: int, said: list[str]) -> None:
    """A pool that is too large for it is told before it gets there."""
    pool = MockPool.create(release="7.2", hosts=crowd, vms=0)
    for host in pool.store.table("host").values():
        pool.store.write(host, edition="free")
    with connected(pool) as session:
        whys = [finding.why for finding in found(rolling_upgrade.plan(session, "7.3"), "edition")]
    assert len(whys) == len(said)
    assert all(part in why for part, why in zip(said, whys, strict=True))


def test_findings_are_plain_data() -> None:
    """They go through JSON with their plan, and say which steps mend them."""
    pool = MockPool.create(release="8.2", hosts=2, vms=8)
    to_pool(pool, ha_enabled=True, other_config={"auto_poweron": "true"})
    write(pool, "host", "host2", enabled=False)
    with connected(pool) as session:
        plan = rolling_upgrade.plan(session)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    assert [Finding.from_dict(json.loads(json.dumps(f.as_dict()))) for f in plan.findings] == list(plan.findings)
    steps = [step for finding in plan.findings for step in (*finding.steps, *finding.unmend)]
    assert {step.action for step in steps} == {"ha-rest", "ha-again", "set-key", "let-in", "keep-out"}
    assert all(step.action in KINDS and "{" not in step.text(plan.names) for step in steps)


def planned_and_heard(pool: MockPool, target: str | None = None) -> list[dict[str, Any]]:
    """The calls that planning the pool's upgrade takes."""
    asked: list[dict[str, Any]] = []

    class Listening:
        def __init__(self, inner: Any) -> None:
            self.inner, self.clock = inner, inner.clock

        def send(self, request: Any) -> Any:
            if request.body[:1] == b"{":
                asked.append(json.loads(request.body))
            return self.inner.send(request)

        def close(self) -> None:
            self.inner.close()

    session = connect(pool.url, pool.username, pool.password, transport=Listening(pool.transport()))
    rolling_upgrade.plan(session, target)
    return asked


def test_a_table_is_read_once() -> None:
    """However many checks look at it: a pool may have thousands of guests."""
    asked = planned_and_heard(MockPool.create(release="8.2", hosts=2, vms=8))
    bulk = [call["method"] for call in asked if call["method"].endswith(".get_all_records")]
    assert len(bulk) == len(set(bulk)) > 15


def test_a_host_is_asked_once_how_much_memory_it_takes() -> None:
    """The check and the planner count with one answer."""
    asked = planned_and_heard(MockPool.create(release="7.1", hosts=3, vms=0), "8.2")
    plugins = [call["params"] for call in asked if call["method"] == "host.call_plugin"]
    assert len([params for params in plugins if "getDom0DefaultMemory" in params]) == 3


PAGE = Path(__file__).parents[2] / "docs" / "procedures" / "checks.md"


def test_the_page_and_the_registry_are_in_step() -> None:
    """One row for each check, in the registry's order, with its level and what it looks at."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows]
    assert [(cell[0].strip("`"), *cell[1:3]) for cell in cells] == [(c.name, c.level, c.looks_at) for c in CHECKS]
    assert all(len(cell) == 4 and cell[3] for cell in cells)
    mendable = {cell[0].strip("`") for cell in cells if "**mended**" in cell[3]}
    assert mendable == MENDABLE


MENDABLE = set(
    "ha wlb auto-power-on schedules legacy-ssl health-check host-disabled blocked-operations unplugged".split()
)


def test_checks_are_told_apart_by_name() -> None:
    """Each has one name, and says what it is as plain data."""
    told = [check.as_dict() for check in checks.CHECKS]
    assert len({check["name"] for check in told}) == len(told)
    assert all(all(check.values()) for check in json.loads(json.dumps(told)))
