"""What may be done to a VM when, what goes on at the same time, and what others see of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import checks, rules
from xenctl.releases import find

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
GIB = 1 << 30


# --- what is legal when

STATES = {"Halted": "vm04", "Paused": "vm01", "Suspended": "vm06", "Running": "vm02"}

HALTED, RUNNING, LIVE, ANY = ("Halted",), ("Running",), ("Paused", "Suspended", "Running"), tuple(STATES)
AT_REST = ("Halted", "Suspended")
LEGAL = {
    **dict.fromkeys(
        "changing_VCPUs changing_static_range changing_memory_limits changing_shadow_memory".split(), HALTED
    ),
    **dict.fromkeys(
        "changing_NVRAM make_into_template provision start start_on create_vtpm clone copy".split(), HALTED
    ),
    **dict.fromkeys(
        "awaiting_memory_live call_plugin clean_reboot clean_shutdown changing_memory_live".split(), RUNNING
    ),
    **dict.fromkeys(
        "changing_shadow_memory_live changing_VCPUs_live data_source_op pause pool_migrate".split(), RUNNING
    ),
    **dict.fromkeys("send_sysrq send_trigger snapshot_with_quiesce sysprep suspend".split(), RUNNING),
    **dict.fromkeys("create_template destroy export".split(), AT_REST),
    **dict.fromkeys("checkpoint get_boot_record shutdown hard_shutdown".split(), LIVE),
    **dict.fromkeys("assert_operation_valid metadata_export power_state_reset revert reverting snapshot".split(), ANY),
    **dict.fromkeys("update_allowed_operations query_services".split(), ANY),
    **dict.fromkeys("csvm resume resume_on".split(), ("Suspended",)),
    "unpause": ("Paused",),
    "import": (),
    "changing_dynamic_range": ("Halted", "Running"),
    "hard_reboot": ("Paused", "Running"),
    "migrate_send": ("Halted", "Suspended", "Running"),
}
LEGAL_IN_6_1 = LEGAL | {"migrate_send": RUNNING}
LEGAL_IN_6_0 = LEGAL_IN_6_1 | {"clone": AT_REST, "copy": AT_REST}
LEGAL_IN_5_6 = LEGAL_IN_6_0 | {"destroy": HALTED}
LEGAL_THEN = LEGAL_IN_5_6 | {"hard_reboot": LIVE}
NOT_FOR_EVERY_VM = {
    "provision": ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"],
    "revert": ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"],
    "query_services": ["NOT_SYSTEM_DOMAIN", "vm"],
    "snapshot_with_quiesce": ["VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", "vm"],
}
THEN, THEN_TOO = ("4.0.1", "5.5"), ("provision", "revert", "query_services")


@pytest.mark.parametrize(
    ("release", "legal"),
    [
        *(("8.2", LEGAL), ("7.0", LEGAL), ("6.5", LEGAL_IN_6_1), ("6.1", LEGAL_IN_6_1), ("6.0", LEGAL_IN_6_0)),
        *(("5.6", LEGAL_IN_5_6), ("5.5", LEGAL_THEN), ("4.0.1", LEGAL_THEN)),
    ],
)
def test_an_operation_is_legal_in_some_power_states(
    calls: Make, release: str, legal: dict[str, tuple[str, ...]]
) -> None:
    """In the others the error lists them in order and in lower case, then the state that it found."""
    c = calls(release=release, vms=12)
    c("VM.pause", c.vm("vm01").ref)
    assert set(legal) == set(c.pool.store.model.enums["vm_operations"])
    for operation, states in legal.items():
        for state, name in STATES.items():
            vm = c.vm(name).ref
            if state in states:
                refused = NOT_FOR_EVERY_VM.get(operation) if release not in THEN or operation in THEN_TOO else None
                if operation in ("clone", "copy") and state == "Suspended":
                    expected = ["VM_BAD_POWER_STATE", vm, "halted", "suspended"]
                    assert c.refused("VM.assert_operation_valid", vm, operation) == expected
                elif refused:
                    expected = [vm if part == "vm" else part for part in refused]
                    assert c.refused("VM.assert_operation_valid", vm, operation) == expected
                else:
                    assert c("VM.assert_operation_valid", vm, operation) == "", (operation, state)
            else:
                expected = ["VM_BAD_POWER_STATE", vm, ", ".join(states).lower(), state.lower()]
                assert c.refused("VM.assert_operation_valid", vm, operation) == expected


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("VM.start", ["vm01", False, False]),
        ("VM.start_on", ["vm01", "host1", False, False]),
        ("VM.resume", ["vm01", False, False]),
        ("VM.resume_on", ["vm01", "host1", False, False]),
        ("VM.unpause", ["vm01"]),
        ("VM.pause", ["vm04"]),
        ("VM.suspend", ["vm04"]),
        ("VM.clean_shutdown", ["vm04"]),
        ("VM.hard_shutdown", ["vm04"]),
        ("VM.clean_reboot", ["vm06"]),
        ("VM.hard_reboot", ["vm04"]),
        ("VM.pool_migrate", ["vm04", "host2", {}]),
        ("VM.destroy", ["vm01"]),
    ],
)
@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_each_operation_looks_at_the_power_state(calls: Make, release: str, method: str, args: list[Any]) -> None:
    """And changes nothing where it is illegal."""
    c = calls(release=release, vms=12)
    vm = c.vm(args[0])
    refs = [c.host(a).ref if a in ("host1", "host2") else a for a in args[1:]]
    before, generation = dict(vm), c.pool.store.generation
    assert c.refused(method, vm.ref, *refs)[:2] == ["VM_BAD_POWER_STATE", vm.ref]
    assert dict(vm) == before
    assert c.pool.store.generation - generation == 2, "no more than the task that came and went"


def test_the_owner_may_block_an_operation(c: Any) -> None:
    """Before anything else is looked at; the list of what is allowed follows."""
    vm = c.vm("vm01")
    c("VM.add_to_blocked_operations", vm.ref, "start", "because")
    c("VM.add_to_blocked_operations", vm.ref, "clean_shutdown", "it is mine")
    assert c.refused("VM.start", vm.ref, False, False) == ["OPERATION_BLOCKED", vm.ref, "because"]
    assert c.refused("VM.clean_shutdown", vm.ref) == ["OPERATION_BLOCKED", vm.ref, "it is mine"]
    assert "clean_shutdown" not in vm["allowed_operations"]
    c("VM.remove_from_blocked_operations", vm.ref, "clean_shutdown")
    assert "clean_shutdown" in vm["allowed_operations"]
    c("VM.clean_shutdown", vm.ref)


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "5.6", "8.2"])
def test_a_template_is_no_vm(calls: Make, release: str) -> None:
    """It may be copied and destroyed, not run; those that came with the product may not be destroyed either. Since 5.6 the
    error says what was to be done."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm04")

    def tells(operation: str) -> list[str]:
        return [] if release in THEN else [operation]

    c.pool.store.write(vm, is_a_template=True)
    c("VM.update_allowed_operations", vm.ref)
    assert c.refused("VM.start", vm.ref, False, False) == ["VM_IS_TEMPLATE", vm.ref, *tells("start")]
    assert {"clone", "copy", "export", "destroy"} <= set(vm["allowed_operations"])
    assert "start" not in vm["allowed_operations"]
    c("VM.add_to_other_config", vm.ref, "default_template", "true")
    assert c.refused("VM.destroy", vm.ref) == ["VM_IS_TEMPLATE", vm.ref, *tells("destroy")]
    c("VM.remove_from_other_config", vm.ref, "default_template")
    c("VM.destroy", vm.ref)


@pytest.mark.parametrize(
    ("operation", "since", "before"),
    [
        ("changing_dynamic_range", "5.6", "5.5"),
        ("changing_VCPUs", "5.6.100", "5.6"),
        ("changing_shadow_memory", "6.1", "6.0"),
        ("migrate_send", "7.0", "6.5"),
    ],
)
def test_more_and_more_may_be_done_to_a_template(calls: Make, operation: str, since: str, before: str) -> None:
    """Each release added something."""
    for release in (since, before):
        c = calls(release=release, vms=4)
        vm = c.vm("vm01" if operation == "migrate_send" and release == before else "vm04")
        c.pool.store.write(vm, is_a_template=True)
        if release == since:
            c("VM.assert_operation_valid", vm.ref, operation)
        else:
            assert c.refused("VM.assert_operation_valid", vm.ref, operation)[0] == "VM_IS_TEMPLATE"


def test_errors_spell_some_operations_in_their_own_way(c: Any) -> None:
    """As xapi does."""
    vm = c.vm("vm04")
    c.pool.store.write(vm, is_a_template=True)
    assert c.refused("VM.assert_operation_valid", vm.ref, "assert_operation_valid")[2] == "assertoperationvalid"
    assert c.refused("VM.assert_operation_valid", vm.ref, "create_template")[2] == "(unknown operation)"


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "6.5", "7.0", "7.1", "8.2"])
def test_a_control_domain_is_left_alone(calls: Make, release: str) -> None:
    """It runs as long as its host does. Up to 7.0 it was called domain 0."""
    c = calls(release=release)
    dom0 = c.vm("Control domain on host: host1").ref
    text = "This operation is not allowed on a control domain"
    if release not in ("7.1", "8.2"):
        text = "Operations on domain 0 are not allowed"
    for method in ("clean_shutdown", "hard_shutdown", "suspend", "pause", "clean_reboot"):
        assert c.refused(f"VM.{method}", dom0) == ["OPERATION_NOT_ALLOWED", text]
    assert c.refused("VM.pool_migrate", dom0, c.host("host2").ref, {}) == ["OPERATION_NOT_ALLOWED", text]


# --- one thing at a time


def test_what_is_busy_says_with_what(calls: Make) -> None:
    """The operation is part of the class, and the task is not told, in every release."""
    for release in ("5.5", "8.2", "8.4"):
        caller = calls(release=release, vms=4)
        vm = caller.vm("vm01")
        caller.start("VM.clean_shutdown", vm.ref)
        assert caller.refused_at_once("VM.pause", vm.ref) == [
            "OTHER_OPERATION_IN_PROGRESS",
            "VM.clean_shutdown",
            vm.ref,
        ]
        caller.sleep(60)
        assert vm["power_state"] == "Halted"


def test_several_operations_are_named_together(c: Any) -> None:
    """In braces."""
    vm = c.vm("vm04")
    c.pool.store.write(vm, current_operations={"OpaqueRef:1": "clone", "OpaqueRef:2": "copy"})
    assert c("VM.assert_operation_valid", vm.ref, "export") == ""
    assert c.refused("VM.start", vm.ref, False, False) == [
        *("OTHER_OPERATION_IN_PROGRESS", "VM.{clone,copy}", vm.ref),
    ]


@pytest.mark.parametrize(
    ("going", "begins", "since"),
    [
        ("copy", "clone", "4.0.1"),
        ("snapshot", "snapshot", "4.0.1"),
        ("checkpoint", "snapshot", "4.0.1"),
        ("get_boot_record", "get_boot_record", "4.0.1"),
        ("clone", "snapshot", None),
        ("migrate_send", "metadata_export", "6.1"),
        ("migrate_send", "hard_shutdown", "6.1"),
        ("migrate_send", "clean_reboot", "6.1"),
        ("snapshot_with_quiesce", "snapshot", "5.6"),
        ("reverting", "hard_shutdown", "5.6"),
        ("clean_shutdown", "hard_shutdown", "6.2"),
        ("clean_reboot", "hard_reboot", "6.2"),
        ("hard_shutdown", "hard_shutdown", None),
        ("suspend", "hard_reboot", "7.0"),
        ("clean_shutdown", "hard_reboot", "7.0"),
        ("hard_shutdown", "hard_reboot", None),
        ("hard_reboot", "hard_shutdown", "7.0"),
        ("pause", "suspend", None),
    ],
)
def test_some_operations_may_go_on_together(calls: Make, going: str, begins: str, since: str | None) -> None:
    """Long copies, snapshots; and force breaks in: since 6.2 into what is clean, since 7.0 into nearly everything."""
    for release in ("4.0.1", "5.5", "5.6", "6.0", "6.1", "6.2", "6.5", "7.0", "8.2"):
        c = calls(release=release, vms=4)
        vm = c.vm("vm04" if begins in ("clone", "export") else "vm01")
        c.pool.store.write(vm, current_operations={"OpaqueRef:task": going})
        if since is not None and find(since).order <= find(release).order:
            c("VM.assert_operation_valid", vm.ref, begins)
        else:
            assert c.refused("VM.assert_operation_valid", vm.ref, begins)[0] == "OTHER_OPERATION_IN_PROGRESS"


@pytest.mark.parametrize("release", ["5.6", "6.0"])
def test_a_busy_vm_says_so_first_up_to_5_6(calls: Make, release: str) -> None:
    """Since 6.0 its power state counts before."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm01")
    c.pool.store.write(vm, current_operations={"OpaqueRef:task": "clean_shutdown"})
    code = "OTHER_OPERATION_IN_PROGRESS" if release == "5.6" else "VM_BAD_POWER_STATE"
    assert c.refused_at_once("VM.assert_operation_valid", vm.ref, "start")[0] == code


@pytest.mark.parametrize("release", ["6.1", "6.2", "6.5", "7.0"])
def test_what_force_ends_follows_the_release(calls: Make, release: str) -> None:
    """Nothing up to 6.1, then a clean shutdown, and since 7.0 a suspend, too."""
    for method, since in (("VM.clean_shutdown", "6.2"), ("VM.suspend", "7.0")):
        c = calls(release=release, vms=4)
        vm = c.vm("vm01")
        task = c.start(method, vm.ref)
        c.sleep(1)
        if find(since).order <= find(release).order:
            c("VM.hard_shutdown", vm.ref)
            assert (vm["power_state"], task["status"]) == ("Halted", "cancelled")
        else:
            assert c.refused_at_once("VM.hard_shutdown", vm.ref)[0] == "OTHER_OPERATION_IN_PROGRESS"


def test_force_ends_what_goes_on(c: Any) -> None:
    """A hard shutdown cancels a migration, a suspend or a clean shutdown and halts the VM; nothing wakes up later."""
    for name, method, args in (
        ("vm01", "VM.pool_migrate", ["host2", {}]),
        ("vm02", "VM.suspend", []),
        ("vm03", "VM.clean_shutdown", []),
    ):
        vm, disks = c.vm(name), len(c.pool.disks)
        task = c.start(method, vm.ref, *[c.host(a).ref if a == "host2" else a for a in args])
        c.sleep(2)
        c("VM.hard_shutdown", vm.ref)
        assert (vm["power_state"], vm["current_operations"], task["status"]) == ("Halted", {}, "cancelled")
        c.sleep(3600)
        assert (vm["power_state"], vm["suspend_VDI"], len(c.pool.disks)) == ("Halted", NULL, disks)
    assert c.unharmed()


# --- what is shown before, while and after


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
@pytest.mark.parametrize(
    ("name", "method", "args", "before", "after", "seconds"),
    [
        ("vm04", "start", [False, False], {"start", "start_on"}, {"clean_shutdown", "suspend", "pool_migrate"}, 60),
        ("vm01", "clean_shutdown", [], {"clean_shutdown", "pause"}, {"start", "destroy"}, 60),
        ("vm01", "suspend", [], {"suspend"}, {"resume", "resume_on", "hard_shutdown"}, 600),
        ("vm06", "resume", [False, False], {"resume", "resume_on"}, {"suspend", "clean_shutdown"}, 600),
        ("vm01", "pool_migrate", ["host2", {}], {"pool_migrate"}, {"pool_migrate"}, 600),
        ("vm01", "clean_reboot", [], {"clean_reboot"}, {"clean_reboot", "suspend"}, 120),
    ],
)
def test_a_second_session_sees_what_goes_on(
    calls: Make,
    release: str,
    name: str,
    method: str,
    args: list[Any],
    before: set[str],
    after: set[str],
    seconds: float,
) -> None:
    """Right before an operation it is allowed, while it goes on nothing else is, after it what fits the new state."""
    c = calls(release=release, hosts=3, vms=12)
    other, vm = c.again(), c.vm(name).ref
    assert other("VM.get_current_operations", vm) == {}
    assert before <= set(other("VM.get_allowed_operations", vm))
    task = c.start(f"VM.{method}", vm, *[c.host(a).ref if a == "host2" else a for a in args])
    assert other("VM.get_current_operations", vm) == {task.ref: method}
    by_force = {"hard_shutdown", "hard_reboot"} if release == "8.2" else set()
    assert set(other("VM.get_allowed_operations", vm)) <= by_force
    c.sleep(seconds)
    assert task["status"] == "success"
    assert other("VM.get_current_operations", vm) == {}
    allowed = set(other("VM.get_allowed_operations", vm))
    assert after <= allowed
    assert not (before - after) & allowed
    assert c.unharmed()


def test_what_is_listed_depends_on_the_release(calls: Make) -> None:
    """Operations that came later are not; some never are, legal or not."""
    lists = {}
    for release in ("4.0.1", "5.0", "5.5", "5.6", "6.1", "8.2"):
        lists[release] = set(calls(release=release, vms=1).vm("vm01")["allowed_operations"])
    assert (
        lists["4.0.1"]
        == lists["5.0"] - {"snapshot"}
        == set(
            "pause clean_shutdown clean_reboot hard_shutdown hard_reboot suspend pool_migrate changing_VCPUs_live".split()
        )
    )
    assert lists["5.6"] - lists["5.5"] >= {"checkpoint", "changing_dynamic_range"}
    assert "migrate_send" in lists["6.1"] - lists["5.6"]
    assert "changing_NVRAM" not in lists["8.2"]
    assert not lists["8.2"] & {"shutdown", "send_sysrq", "power_state_reset", "data_source_op"}


@pytest.mark.parametrize("release", ["4.0.1", "5.6", "7.0", "8.2"])
def test_what_is_advertised_is_what_no_check_refuses(calls: Make, release: str) -> None:
    """In every power state, for guests, control domains and snapshots, idle and busy: no short cut leaves one out."""
    c = calls(release=release, vms=12)
    store = c.pool.store
    store.write(c.vm("vm01"), **{"is_a_snapshot": True} if "is_a_snapshot" in c.vm("vm01") else {})
    seen = set()
    for vm in list(store.table("VM").values())[:6]:
        for state in ("Halted", "Paused", "Running", "Suspended"):
            for going in ({}, {"OpaqueRef:a": "clean_shutdown"}):
                store.write(vm, power_state=state, current_operations=going)
                names = rules.advertised(store.release)
                allowed = [name for name in names if checks.operation_refused(store, vm, name) is None]
                assert checks.allowed_operations(store, vm) == allowed
                seen.add(tuple(allowed))
    assert len(seen) > 4


# --- what toolstacks tell each other, and what operators are told


def test_toolstacks_may_do_what_users_may_not(c: Any) -> None:
    """They say where a VM came up, and reboot a guest that asked for it."""
    vm, host = c.vm("vm02"), c.host("host2").ref
    own = c.pool.dispatch("session.slave_login", [host, c.pool.master.system.pool_secret])
    for method, args in (("VM.atomic_set_resident_on", [vm.ref, host]), ("VM.hard_reboot_internal", [vm.ref])):
        assert c.refused(method, *args)[0] == "INTERNAL_ERROR"
    domid = vm["domid"]
    c.pool.store.write(vm, resident_on=NULL, scheduled_to_be_resident_on=host)
    c.pool.dispatch("VM.atomic_set_resident_on", [own, vm.ref, host])
    assert (vm["resident_on"], vm["scheduled_to_be_resident_on"]) == (host, NULL)
    c.pool.dispatch("VM.hard_reboot_internal", [own, vm.ref])
    assert (vm["power_state"], vm["domid"] != domid, vm["current_operations"]) == ("Running", True, {})
    assert c.unharmed()


@pytest.mark.parametrize(
    ("release", "priority", "all_told"), [("5.6", 1, False), ("6.1", 1, False), ("8.2", 5, False), ("8.4", 5, True)]
)
def test_operators_are_told_what_was_done(calls: Make, old: Any, release: str, priority: int, all_told: bool) -> None:
    """In a message about the VM, once it is done; messages came with 5.0, some, and the VM's uuid, with XenServer 8."""
    c = calls(release=release, hosts=2, vms=6)
    vm, host = c.vm("vm04"), c.host("host1")
    who = f"VM 'vm04' (uuid: {vm['uuid']})" if all_told else "VM 'vm04'"
    where = f"on host: host1 (uuid: {host['uuid']})"
    for method, args, name, text in (
        ("start_on", [host.ref, False, False], "VM_STARTED", f"started {where}"),
        ("pause", [], "VM_PAUSED", "paused"),
        ("unpause", [], "VM_UNPAUSED", "unpaused"),
        ("clean_reboot", [], "VM_REBOOTED", "rebooted cleanly"),
        ("suspend", [], "VM_SUSPENDED", "suspended"),
        ("resume_on", [host.ref, False, False], "VM_RESUMED", f"resumed {where}"),
        ("snapshot", ["now"], "VM_SNAPSHOTTED", "snapshotted, snapshot name: now"),
        ("clean_shutdown", [], "VM_SHUTDOWN", "shutdown"),
    ):
        if method == "suspend":
            c.sleep(c.pool.durations.vm_boot)
        before = len(list(c.pool.messages.newest_first()))
        c(f"VM.{method}", vm.ref, *args)
        if not all_told and method in ("pause", "unpause", "snapshot"):
            assert len(list(c.pool.messages.newest_first())) == before
            continue
        message = next(iter(c.pool.messages.newest_first()))
        assert (message["name"], message["cls"], message["obj_uuid"]) == (name, "VM", vm["uuid"])
        assert (message["body"], message["priority"]) == (f"{who} {text}", priority)
    before = len(list(c.pool.messages.newest_first()))
    c.refused("VM.pause", vm.ref)
    assert len(list(c.pool.messages.newest_first())) == before
    old("VM.clean_shutdown", old.vm("vm01").ref)
    assert list(old.pool.messages.newest_first()) == []
