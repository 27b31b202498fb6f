"""Checks of the pool as a whole: services that must rest meanwhile, somebody else at work, settings that go away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import marking
from ..acts import mending
from ..plan import Step
from .finding import BLOCKS, EITHER, WARNS, Check, Found
from .survey import Situation

FORBIDS = "hci-forbid-rpu"
"""The key in the pool's `other_config` by which an appliance forbids rolling upgrades."""
AUTO = "auto_poweron"
POOL_KEY_SINCE = (6, 0, 0)
ENROLLED = "Enrollment"
ENDED = ("success", "failure", "cancelled")
"""The states of a task that is over."""


def _pool(at: Situation, why: str, *steps: Step, back: bool = True, **more: str) -> Found:
    unmend = tuple(mending.back(step) for step in reversed(steps)) if back else ()
    return Found("pool", at.facts.uuid, at.facts.name, why, steps, unmend, **more)


def _one_host(at: Situation) -> Iterator[Found]:
    if len(at.facts.hosts) < 2:
        yield _pool(at, "the pool has one host: there is nowhere for its guests to run meanwhile")


def _marked(at: Situation) -> Iterator[Found]:
    for why in marking.against(at.facts, take_over=at.take_over):
        yield _pool(at, why)


def _forbidden(at: Situation) -> Iterator[Found]:
    if at.survey.pool.get("other_config", {}).get(FORBIDS) == "true":
        yield _pool(at, f"somebody forbids rolling upgrades of this pool ({FORBIDS}=true in its other_config)")


def _ha(at: Situation) -> Iterator[Found]:
    if not at.facts.ha_enabled:
        return
    record = at.survey.pool
    files = (at.survey.get("VDI", ref) for ref in record.get("ha_statefiles", ()))
    srs = [at.survey.get("SR", file.get("SR")).get("uuid", "") for file in files]
    step = mending.ha_off(
        srs=sorted({uuid for uuid in srs if uuid}),
        configuration=dict(record.get("ha_configuration", {})),
        failures=record.get("ha_host_failures_to_tolerate", 0),
    )
    yield _pool(at, "high availability is on: switch it off first, it would fence the hosts that are upgraded", step)


def _wlb(at: Situation) -> Iterator[Found]:
    if at.survey.pool.get("wlb_enabled", False):
        step = mending.set_field(
            *("pool", at.facts.uuid, "wlb_enabled", False, True),
            *("switch workload balancing off", "switch workload balancing on again"),
        )
        why = "workload balancing is on: switch it off first, it moves guests while hosts are emptied"
        yield _pool(at, why, step)


def _auto_power_on(at: Situation) -> Iterator[Found]:
    """Since 6.0 guests with the key are started only where the pool has it too; before, theirs suffices."""
    key = at.survey.pool.get("other_config", {}).get(AUTO)
    if key == "true":
        step = mending.set_key(
            *("pool", at.facts.uuid, "other_config", AUTO, None, key),
            *("switch the pool's automatic power-on off", "switch the pool's automatic power-on on again"),
        )
        yield _pool(
            at, "the pool starts guests by itself when a host starts (auto_poweron): switch that off first", step
        )
    for vm, record in at.guests():
        own = record.get("other_config", {}).get(AUTO)
        if own == "true" and (key == "true" or at.source.version < POOL_KEY_SINCE):
            step = mending.set_key(
                *("VM", vm.uuid, "other_config", AUTO, None, own),
                f"switch the automatic power-on of {vm.name} off",
                f"switch the automatic power-on of {vm.name} on again",
            )
            why = f"{vm.name} is started by itself when a host starts (auto_poweron): switch that off first"
            yield Found("VM", vm.uuid, vm.name, why, (step,), (mending.back(step),))


SCHEDULES = (("VMPP", "is_policy_enabled"), ("VMSS", "enabled"))
"""Classes of schedules that take snapshots, and the field that switches one off."""


def _schedules(at: Situation) -> Iterator[Found]:
    for kind, field in SCHEDULES:
        gone = kind == "VMPP" and at.crosses(6, 2)
        for record in at.records(kind).values():
            if not record.get(field) or not record.get("VMs"):
                continue
            name = record["name_label"]
            step = mending.set_field(
                *(kind, record["uuid"], field, False, True),
                *(f"switch the schedule {name} off", f"switch the schedule {name} on again"),
            )
            after = "; 6.2 has no such policies any more" if gone else ""
            why = f"the schedule {name} may take snapshots meanwhile, which are refused while versions are mixed{after}"
            yield Found(kind, record["uuid"], name, why, (step,), () if gone else (mending.back(step),))


WHERE = ("pool", "host", "SR", "VDI")
"""Classes whose objects may have operations under way, guests apart."""
DOWN = "shutdown"
"""What a host shows from when it was told to stop or reboot until it greets the master again: a run that stopped in the
middle may have told it."""


def _operations(at: Situation) -> Iterator[Found]:
    for vm in at.facts.vms.values():
        if vm.busy:
            yield Found(
                "VM", vm.uuid, vm.name, f"{vm.name} has an operation going on ({', '.join(vm.busy)})", level=BLOCKS
            )
    for kind in WHERE:
        for record in at.records(kind).values():
            busy = sorted(set(record.get("current_operations", {}).values()) - ({DOWN} if at.half_done else set()))
            if busy:
                name = record["name_label"] or record["uuid"]
                why = f"{kind} {name} has an operation going on ({', '.join(busy)})"
                yield Found(kind, record["uuid"], name, why, level=BLOCKS)
    for record in at.records("task").values():
        if record["status"] not in ENDED:
            name = record["name_label"]
            yield Found("task", record["uuid"], name, f"a task is not over: {name} ({record['status']})", level=WARNS)


def _controllers(at: Situation) -> Iterator[Found]:
    if not at.crosses(8, 2):
        return
    address = at.survey.pool.get("vswitch_controller", "")
    more = [record["address"] for record in at.records("SDN_controller").values()]
    for known in dict.fromkeys(a for a in (address, *more) if a):
        yield _pool(at, f"the vSwitch controller at {known} is not supported from 8.2 on")


def _legacy_ssl(at: Situation) -> Iterator[Found]:
    if not at.crosses(8, 2):
        return
    hosts = [host.name for host, record in at.hosts() if record.get("ssl_legacy")]
    if hosts:
        why = f"old TLS is on ({', '.join(hosts)}), and gone from 8.2 on: clients that need it lose the pool"
        yield _pool(at, why, mending.legacy_ssl_off(), back=False)


def _health_check(at: Situation) -> Iterator[Found]:
    config: Mapping[str, Any] = at.survey.pool.get("health_check_config", {})
    if at.crosses(8, 2) and config.get(ENROLLED) == "true":
        step = mending.set_key(
            *("pool", at.facts.uuid, "health_check_config", ENROLLED, "false", "true"),
            *("end the enrolment in the health check", "enrol in the health check again"),
        )
        yield _pool(at, "the pool is enrolled in the vendor's health check, which ends with 8.2", step, back=False)


def _clusters(at: Situation) -> Iterator[Found]:
    gfs2 = [sr["name_label"] for sr in at.records("SR").values() if sr["type"] == "gfs2"]
    if not at.records("Cluster") and not gfs2:
        return
    what = f"GFS2 storage ({', '.join(gfs2)})" if gfs2 else "a cluster"
    level = BLOCKS if (7, 5, 0) <= at.source.version < (7, 6, 0) else WARNS
    yield _pool(at, f"the pool has {what}: hosts leave and join the cluster while they are upgraded", level=level)


CHECKS = (
    Check(*("one-host", BLOCKS, "whether there is a second host"), "upgrade a host alone with `reinstall`", _one_host),
    Check(
        *("other-run", BLOCKS, "the mark that a run leaves on the pool"),
        *("resume or abandon that run; take over where it is lost", _marked),
    ),
    Check(
        *("forbidden", BLOCKS, f"the key {FORBIDS} in the pool's other_config"),
        *("ask who set it; upgrade as that appliance wants it", _forbidden),
    ),
    Check(
        *("ha", BLOCKS, "high availability"),
        *("switch it off; it comes back when all versions are equal", _ha),
    ),
    Check(*("wlb", BLOCKS, "workload balancing"), *("switch it off for the time of the upgrade", _wlb)),
    Check(
        *("auto-power-on", BLOCKS, "the key auto_poweron of the pool and of guests"),
        *("take the key away for the time of the upgrade", _auto_power_on),
    ),
    Check(
        *("schedules", WARNS, "schedules of snapshots (VMPP, VMSS) that are on and have guests"),
        *("switch them off for the time of the upgrade", _schedules),
    ),
    Check(
        *("operations", EITHER, "operations under way, which block, and tasks that are not over"),
        *("wait until they are over, or cancel them", _operations),
    ),
    Check(
        *("vswitch-controller", WARNS, "a vSwitch controller, when going to 8.2 or past it"),
        *("remove the controller from the pool", _controllers),
    ),
    Check(
        *("legacy-ssl", WARNS, "old TLS on hosts, when going to 8.2 or past it"),
        *("switch it off, and see which clients need it", _legacy_ssl),
    ),
    Check(
        *("health-check", WARNS, "the enrolment in the vendor's health check, when going to 8.2 or past it"),
        *("end the enrolment", _health_check),
    ),
    Check(
        *("clustering", EITHER, "clusters and GFS2 storage; a pool of 7.5 that has them cannot be upgraded so"),
        *("switch clustering off, detach the storage", _clusters),
    ),
)
