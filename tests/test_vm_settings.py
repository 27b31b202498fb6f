"""Settings of VMs: what is checked when one is set, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


@pytest.fixture
def latest(newest: Make) -> Any:
    return newest(hosts=2, vms=12)


@pytest.mark.parametrize("name", ["order", "start_delay", "shutdown_delay"])
def test_orders_and_delays_are_not_negative(c: Any, name: str) -> None:
    """The error says so."""
    vm = c.vm("vm04")
    c(f"VM.set_{name}", vm.ref, 7)
    assert vm[name] == 7
    assert c.refused(f"VM.set_{name}", vm.ref, -1) == ["INVALID_VALUE", f"{name} must be non-negative", "-1"]
    assert vm[name] == 7


def test_delays_are_waited_for(c: Any) -> None:
    """The operation is over when they are."""
    vm = c.vm("vm04")
    c("VM.set_start_delay", vm.ref, 300)
    c("VM.set_shutdown_delay", vm.ref, 200)
    before = c.pool.clock.now()
    c("VM.start", vm.ref, False, False)
    assert c.pool.clock.now() - before >= 300
    before = c.pool.clock.now()
    c("VM.clean_shutdown", vm.ref)
    assert c.pool.clock.now() - before >= 200


def test_a_shutdown_that_takes_too_long_is_forced(c: Any) -> None:
    """Too long is what the VM says, or twenty minutes."""
    vm = c.vm("vm02")
    c("VM.set_shutdown_delay", vm.ref, 5)
    before = c.pool.clock.now()
    c("VM.shutdown", vm.ref)
    assert vm["power_state"] == "Halted"
    assert 10 <= c.pool.clock.now() - before < 15, "and then the delay is waited for"
    assert c.unharmed()


# --- kind of domain


def test_boot_policy_and_domain_type_go_together(c: Any) -> None:
    """Whichever is set."""
    vm = c.vm("vm04")
    c("VM.set_HVM_boot_policy", vm.ref, "BIOS order")
    assert (vm["HVM_boot_policy"], vm["domain_type"]) == ("BIOS order", "hvm")
    c("VM.set_domain_type", vm.ref, "pv")
    assert (vm["HVM_boot_policy"], vm["domain_type"]) == ("", "pv")
    c("VM.set_domain_type", vm.ref, "pvh")
    assert (vm["HVM_boot_policy"], vm["domain_type"]) == ("", "pvh")
    assert c.refused("VM.set_domain_type", vm.ref, "unspecified") == ["INVALID_VALUE", "domain_type", "unspecified"]


def test_a_boot_settles_what_was_left_open(c: Any) -> None:
    """The kind of domain, the device model, BIOS strings, overhead, and the version of the hardware."""
    vm = c.vm("vm11")
    c("VM.set_HVM_boot_policy", vm.ref, "BIOS order")
    c.pool.store.write(vm, domain_type="unspecified", has_vendor_device=True, ha_restart_priority="restart")
    c("VM.start", vm.ref, False, False)
    metrics = c.pool.store.get("VM_metrics", vm["metrics"])
    assert (vm["domain_type"], metrics["current_domain_type"], metrics["hvm"]) == ("hvm", "hvm", True)
    assert vm["platform"]["device-model"] == "qemu-upstream-compat"
    assert vm["bios_strings"]["system-product-name"] == "HVM domU"
    assert (vm["hardware_platform_version"], vm["ha_always_run"]) == (2, True)
    assert vm["last_boot_CPU_flags"]["vendor"] == "GenuineIntel"
    c("VM.hard_shutdown", vm.ref)
    assert vm["ha_always_run"] is False


PLATFORM = "platform:cores-per-socket"
SIZED = f"{PLATFORM} (value"
OLD = "VCPUs_max must be a multiple of this field"
CORES = [
    ("7.0", "3", ["INVALID_VALUE", PLATFORM, OLD]),
    ("8.1", "0", ["INVALID_VALUE", PLATFORM, OLD]),
    ("8.1", "x", ["INVALID_VALUE", PLATFORM, "value = x is not a valid int"]),
    ("8.2", "3", ["INVALID_VALUE", f"{SIZED} 3)", "VCPUs_max (value 4) must be a multiple of cores-per-socket"]),
    ("8.2", "x", ["INVALID_VALUE", f"{SIZED} x)", "Value is not a valid int"]),
    ("8.4", "3", ["VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE", "4", "3"]),
    ("8.4", "-2", ["VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE", "4", "-2"]),
    ("8.4", "x", ["INVALID_VALUE", PLATFORM, "x"]),
]


@pytest.mark.parametrize(("release", "cores", "error"), CORES)
def test_cores_a_socket_divide_the_processors_of_a_guest(
    calls: Make, release: str, cores: str, error: list[str]
) -> None:
    """Else it neither starts nor reboots, and nothing of it is left; without hardware virtualisation nobody asks."""
    c = calls(release=release, hosts=1, vms=12)
    vm, halted = c.vm("vm04"), {"power_state": "Halted", "domid": -1, "current_operations": {}}
    c("VM.set_HVM_boot_policy", vm.ref, "BIOS order")
    c.pool.store.write(vm, VCPUs_max=4, platform={**vm["platform"], "cores-per-socket": cores})
    assert c.refused("VM.start", vm.ref, False, False) == error
    assert {name: vm[name] for name in halted} == halted and vm["scheduled_to_be_resident_on"] == "OpaqueRef:NULL"
    c.pool.store.write(vm, platform={**vm["platform"], "cores-per-socket": "2"})
    c("VM.start", vm.ref, False, False)
    domid = vm["domid"]
    c.pool.store.write(vm, platform={**vm["platform"], "cores-per-socket": cores})
    assert c.refused("VM.hard_reboot", vm.ref) == error
    assert (vm["power_state"], vm["domid"]) == ("Running", domid)
    plain = c.vm("vm08")
    c("VM.set_HVM_boot_policy", plain.ref, "")
    c.pool.store.write(plain, platform={"cores-per-socket": cores})
    c("VM.start", plain.ref, False, False)


def test_before_7_0_nobody_looks_at_cores_a_socket(calls: Make) -> None:
    """The guest sees what comes of it."""
    c = calls(release="6.5", hosts=1, vms=12)
    c("VM.set_HVM_boot_policy", c.vm("vm04").ref, "BIOS order")
    c.pool.store.write(c.vm("vm04"), platform={"cores-per-socket": "x"})
    c("VM.start", c.vm("vm04").ref, False, False)
    assert c.vm("vm04")["power_state"] == "Running"


@pytest.mark.parametrize("release", ["7.6", "8.0", "8.4"])
@pytest.mark.parametrize(("model", "firmware"), [("qemu-trad", "uefi"), ("qemu-upstream-uefi", "bios")])
def test_a_device_model_boots_firmware_of_its_kind(calls: Make, release: str, model: str, firmware: str) -> None:
    """Since 8.0 another is refused at the start."""
    c = calls(release=release, hosts=1, vms=12)
    vm = c.vm("vm04")
    c("VM.set_HVM_boot_policy", vm.ref, "BIOS order")
    boot = {"firmware": firmware} if firmware == "uefi" else {}
    c.pool.store.write(vm, platform={"device-model": model}, HVM_boot_params=boot)
    if release == "7.6":
        c("VM.start", vm.ref, False, False)
    else:
        text = f"{firmware.upper()} boot is not supported with {model}"
        assert c.refused("VM.start", vm.ref, False, False) == ["INVALID_VALUE", "platform:device-model", text]
        assert vm["power_state"] == "Halted"
        c.pool.store.write(vm, platform={"device-model": "qemu-upstream-compat"})
        c("VM.start", vm.ref, False, False)


def test_a_vm_for_newer_hardware_starts_on_no_older_host(c: Any) -> None:
    """The error lists what the host has."""
    vm, host = c.vm("vm04"), c.host("host1").ref
    c.pool.store.write(vm, hardware_platform_version=3)
    assert c.refused("VM.start_on", vm.ref, host, False, False) == [
        *("VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION", host, "[0; 1; 2]", vm.ref, "3"),
    ]


def test_the_vendor_device_needs_a_halted_vm(c: Any) -> None:
    """And newer virtual hardware."""
    vm = c.vm("vm04")
    c("VM.set_has_vendor_device", vm.ref, True)
    assert (vm["has_vendor_device"], vm["hardware_platform_version"]) == (True, 2)
    running = c.vm("vm02").ref
    assert c.refused("VM.set_has_vendor_device", running, True) == [
        *("VM_BAD_POWER_STATE", running, "halted", "running"),
    ]


# --- BIOS strings and firmware


def test_bios_strings_are_set_once(c: Any) -> None:
    """Those that are not given have their usual values."""
    vm = c.vm("vm04")
    c("VM.set_bios_strings", vm.ref, {"bios-vendor": "Mine"})
    assert (vm["bios_strings"]["bios-vendor"], vm["bios_strings"]["system-manufacturer"]) == ("Mine", "Xen")
    assert c.refused("VM.set_bios_strings", vm.ref, {}) == ["VM_BIOS_STRINGS_ALREADY_SET"]
    assert c.refused("VM.copy_bios_strings", vm.ref, c.host("host1").ref) == ["VM_BIOS_STRINGS_ALREADY_SET"]


@pytest.mark.parametrize(
    ("strings", "error"),
    [
        ({"unheard-of": "x"}, ["unheard-of", "Unknown key"]),
        ({"bios-vendor": ""}, ["bios-vendor", "Value provided is empty"]),
        ({"bios-vendor": "x" * 513}, ["bios-vendor", f"{'x' * 513} has length more than 512 characters"]),
        ({"bios-vendor": "ä"}, ["bios-vendor", "ä has non-printable ASCII characters"]),
        ({"oem-1": "x"}, ["oem-1", "Unknown key"]),
    ],
)
def test_bios_strings_are_checked(c: Any, strings: dict[str, str], error: list[str]) -> None:
    """Keys, lengths and characters."""
    vm = c.vm("vm04")
    assert c.refused("VM.set_bios_strings", vm.ref, strings) == ["INVALID_VALUE", *error]
    assert vm["bios_strings"] == {}


def test_bios_strings_of_a_host(c: Any) -> None:
    """The VM prefers that host from then on."""
    vm, host = c.vm("vm04"), c.host("host2")
    c.pool.store.write(host, bios_strings={"bios-vendor": "Dell Inc."})
    c("VM.copy_bios_strings", vm.ref, host.ref)
    assert (vm["bios_strings"], vm["affinity"]) == ({"bios-vendor": "Dell Inc."}, host.ref)


def test_nvram_is_changed_while_a_vm_is_off(c: Any) -> None:
    """Except by its firmware."""
    vm, running = c.vm("vm04"), c.vm("vm02")
    c("VM.set_NVRAM", vm.ref, {"a": "1"})
    c("VM.add_to_NVRAM", vm.ref, "b", "2")
    assert c.refused("VM.add_to_NVRAM", vm.ref, "b", "2") == ["MAP_DUPLICATE_KEY", "VM", "NVRAM", vm.ref, "b"]
    c("VM.remove_from_NVRAM", vm.ref, "a")
    c("VM.set_NVRAM_EFI_variables", vm.ref, "AAAA")
    assert vm["NVRAM"] == {"b": "2", "EFI-variables": "AAAA"}
    assert c.refused("VM.set_NVRAM", running.ref, {})[0] == "VM_BAD_POWER_STATE"
    c("VM.set_NVRAM_EFI_variables", running.ref, "BBBB")
    assert running["NVRAM"] == {"EFI-variables": "BBBB"}


# --- high availability


def test_a_restart_priority_protects_what_runs(c: Any) -> None:
    """From that moment on; what is off is protected when it starts."""
    vm, halted = c.vm("vm02"), c.vm("vm04")
    c("VM.set_ha_restart_priority", vm.ref, "restart")
    assert vm["ha_always_run"] is True
    c("VM.set_ha_restart_priority", vm.ref, "best-effort")
    assert vm["ha_always_run"] is False
    c("VM.set_ha_always_run", halted.ref, True)
    assert (halted["ha_restart_priority"], halted["ha_always_run"]) == ("restart", False)
    assert c.refused("VM.set_ha_restart_priority", vm.ref, "1") == ["INVALID_VALUE", "ha_restart_priority", "1"]
    c("VM.suspend", c.vm("vm03").ref)


def test_up_to_5_6_protection_was_a_flag_of_its_own(calls: Make) -> None:
    """And the priority a number."""
    c = calls(release="5.6", vms=4)
    vm = c.vm("vm04")
    c("VM.set_ha_restart_priority", vm.ref, "1")
    c("VM.set_ha_always_run", vm.ref, True)
    assert (vm["ha_restart_priority"], vm["ha_always_run"]) == ("1", True)
    assert c.refused("VM.set_ha_restart_priority", vm.ref, "restart")[0] == "INVALID_VALUE"


# --- what a VM belongs to


def add(c: Any, table: str, **fields: Any) -> Any:
    return c.pool.store.create(table, c.pool.new_ref(), {"uuid": c.pool.new_uuid(), **fields})


def test_a_vm_joins_an_appliance(c: Any) -> None:
    """And cannot become a template while it is in one."""
    vm, appliance = c.vm("vm04"), add(c, "VM_appliance")
    c("VM.set_appliance", vm.ref, appliance.ref)
    assert (vm["appliance"], appliance["VMs"]) == (appliance.ref, [vm.ref])
    error = ["VM_IS_PART_OF_AN_APPLIANCE", vm.ref, appliance.ref]
    assert c.refused("VM.set_is_a_template", vm.ref, True) == error
    assert "make_into_template" not in vm["allowed_operations"]
    c("VM.set_appliance", vm.ref, NULL)
    assert "make_into_template" in vm["allowed_operations"]
    dom0 = c.vm("Control domain on host: host1").ref
    assert c.refused("VM.set_appliance", dom0, appliance.ref)[0] == "OPERATION_NOT_ALLOWED"


def test_a_vm_gets_a_schedule_of_snapshots(c: Any) -> None:
    """Which must be there, and take what the guest can do."""
    vm, schedule = c.vm("vm04"), add(c, "VMSS", type="snapshot")
    quiet = add(c, "VMSS", type="snapshot_with_quiesce")
    c("VM.set_snapshot_schedule", vm.ref, schedule.ref)
    assert (vm["snapshot_schedule"], schedule["VMs"]) == (schedule.ref, [vm.ref])
    error = ["VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE", vm.ref, schedule.ref]
    assert c.refused("VM.set_is_a_template", vm.ref, True) == error
    assert c.refused("VM.set_snapshot_schedule", vm.ref, "OpaqueRef:none") == ["INVALID_VALUE", "OpaqueRef:none"]
    assert c.refused("VM.set_snapshot_schedule", vm.ref, quiet.ref) == [
        *("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref),
    ]
    c("VM.set_snapshot_schedule", vm.ref, NULL)
    assert vm["snapshot_schedule"] == NULL
    c("VM.set_is_a_template", vm.ref, True)
    assert c.refused("VM.set_snapshot_schedule", vm.ref, schedule.ref) == ["VM_IS_TEMPLATE", vm.ref]


def test_protection_policies_were_from_5_6_fp1_to_6_1(calls: Make) -> None:
    """Since then the message is gone."""
    c = calls(release="6.0", vms=4)
    vm, policy = c.vm("vm04"), add(c, "VMPP")
    c("VM.set_protection_policy", vm.ref, policy.ref)
    assert vm["protection_policy"] == policy.ref
    error = ["VM_ASSIGNED_TO_PROTECTION_POLICY", vm.ref, policy.ref]
    assert c.refused("VM.assert_operation_valid", vm.ref, "make_into_template") == error
    now = calls(release="8.2", vms=4)
    assert now.refused("VM.set_protection_policy", now.vm("vm04").ref, NULL)[0] == "MESSAGE_REMOVED"


def test_a_vm_is_in_one_group_at_the_most(latest: Any) -> None:
    """Templates are in none."""
    c = latest
    vm, groups = c.vm("vm04"), [add(c, "VM_group").ref for _ in range(2)]
    c("VM.set_groups", vm.ref, groups[:1])
    assert vm["groups"] == groups[:1]
    assert c.refused("VM.set_groups", vm.ref, groups) == ["TOO_MANY_GROUPS"]
    c("VM.set_is_a_template", vm.ref, True)
    assert vm["groups"] == []
    assert c.refused("VM.set_groups", vm.ref, groups[:1])[0] == "OPERATION_NOT_ALLOWED"


def test_certificates_are_renewed_at_the_next_boot(latest: Any) -> None:
    """Where there are newer ones; the firmware says when it has them."""
    c = latest
    vm = c.vm("vm04")
    refused = c.refused("VM.update_secureboot_certificates_on_boot", vm.ref, True)
    assert refused[0] == "OPERATION_NOT_ALLOWED"
    c.pool.store.write(vm, secureboot_certificates_state="update_available")
    for mark, state in ((True, "update_on_boot"), (True, "update_on_boot"), (False, "update_available")):
        c("VM.update_secureboot_certificates_on_boot", vm.ref, mark)
        assert vm["secureboot_certificates_state"] == state
    c("VM.set_NVRAM_EFI_variables", vm.ref, "AAAA", "yes")
    assert vm["secureboot_certificates_state"] == "ok"


# --- the suspend image, and others


def test_a_suspend_image_may_be_replaced_by_its_equal(c: Any) -> None:
    """The bytes are compared."""
    vm = c.vm("vm06")
    old = c.pool.store.get("VDI", vm["suspend_VDI"])
    twin = add(c, "VDI", SR=old["SR"], type="suspend", managed=True)
    c.pool.add_disk(twin["uuid"])
    refused = c.refused("VM.set_suspend_VDI", vm.ref, twin.ref)
    assert refused[0] == "SUSPEND_VDI_REPLACEMENT_IS_NOT_IDENTICAL"
    assert [part.split(" : ")[0] for part in refused[1:]] == [old["uuid"], twin["uuid"]]
    c.pool.disks[twin["uuid"]].blocks = dict(c.pool.disks[old["uuid"]].blocks)
    c("VM.set_suspend_VDI", vm.ref, twin.ref)
    assert vm["suspend_VDI"] == twin.ref
    c("VM.resume", vm.ref, False, False)
    running = c.vm("vm02").ref
    for image in (old.ref, "none"):
        assert c.refused("VM.set_suspend_VDI", running, image) == [
            *("VM_BAD_POWER_STATE", running, "suspended", "running"),
        ]
    c("VM.suspend", vm.ref)
    c.pool.store.write(old, type="cbt_metadata")
    assert c.refused("VM.set_suspend_VDI", vm.ref, old.ref) == ["VDI_INCOMPATIBLE_TYPE", vm.ref, "CBT metadata"]


def test_a_new_blob_belongs_to_the_vm(c: Any) -> None:
    """By its name, and goes with it."""
    vm = c.vm("vm04")
    blob = c("VM.create_new_blob", vm.ref, "notes", "text/plain", False)
    assert vm["blobs"] == {"notes": blob}
    assert c.pool.store.get("blob", blob)["mime_type"] == "text/plain"
    assert c.refused("VM.create_new_blob", vm.ref, "notes", "", False)[0] == "MAP_DUPLICATE_KEY"
    c("VM.destroy", vm.ref)
    assert c.pool.store.find("blob", blob) is None


@pytest.mark.parametrize("release", ["8.2", "8.4"])
def test_a_new_vm_is_made_as_its_maker_says(calls: Make, release: str) -> None:
    """What it runs as follows from its boot policy. Since XenServer 8 it may be suspended, with all that was saved."""
    c = calls(release=release, hosts=2, vms=12)
    base = dict(c.pool.store.record(c.vm("vm04")))
    vm = c.pool.store.get("VM", c("VM.create", {**base, "name_label": "made", "HVM_boot_policy": "BIOS order"}))
    assert (vm["power_state"], vm["domain_type"], vm["parent"]) == ("Halted", "hvm", NULL)
    assert vm["memory_overhead"] > 0
    assert (vm["blocked_operations"], vm["suspend_VDI"]) == ({}, NULL)
    running = c.pool.store.get("VM", c("VM.create", {**base, "power_state": "Running"}))
    assert running["power_state"] == "Halted"
    saved = {
        "last_booted_record": "()",
        "last_boot_CPU_flags": {"vendor": "x"},
        "suspend_VDI": c.vm("vm06")["suspend_VDI"],
    }
    asleep = c.pool.store.get("VM", c("VM.create", {**base, "power_state": "Suspended", **saved}))
    if release == "8.2":
        assert (asleep["power_state"], asleep["suspend_VDI"]) == ("Halted", NULL)
        return
    refused = c.refused("VM.create", {**base, "power_state": "Suspended"})
    assert (refused[0], refused[2:]) == ("VM_BAD_POWER_STATE", ["halted", "suspended"])
    assert (asleep["power_state"], asleep["suspend_VDI"]) == ("Suspended", saved["suspend_VDI"])


def test_a_suspend_image_that_storage_has_lost_cannot_be_compared(c: Any) -> None:
    """Neither the new one nor the old one: storage says so, and nothing is changed."""
    vm, pool = c.vm("vm06"), c.pool
    old = pool.store.get("VDI", vm["suspend_VDI"])
    twin = pool.store.get("VDI", c("VDI.copy", old.ref, old["SR"]))
    for lost in (twin, old):
        pool.disks.pop(lost["uuid"])
        refused = c.refused("VM.set_suspend_VDI", vm.ref, twin.ref)
        assert refused[0] == "SR_BACKEND_FAILURE_46"
        assert vm["suspend_VDI"] == old.ref


def test_an_operation_without_a_task_of_its_own_is_shown_nevertheless(c: Any) -> None:
    """A call that has no asynchronous form is named by a reference that is in no table, as in xapi."""
    shown: list[str] = []
    before = c.pool.store.on_write

    def note(write: Any) -> None:
        if write.field == "current_operations":
            shown.extend(write.new)
        before(write)

    c.pool.store.on_write = note
    c("VM.set_NVRAM", c.vm("vm04").ref, {"a": "1"})
    assert [text.partition("|")[0] for text in shown] == ["DummyRef:"]
    assert shown[0].endswith("|VM.set_NVRAM")
    assert c.vm("vm04")["current_operations"] == {}
