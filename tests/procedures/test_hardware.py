"""What ties a guest to its host: processors, cards, and devices that are passed through, as pools of each release tell
it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from guests import fully_virtual

from mockserver import MockPool
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.hardware import Cpu, Devices, cpu_of_guest, cpu_of_host
from xenctl.procedures.observe import PoolFacts, observe
from xenctl.session import connect


class Pool:
    """A fake pool with things that no made-up pool has."""

    def __init__(self, release: str) -> None:
        self.pool = fully_virtual(MockPool.create(release=release))

    def add(self, table: str, **fields: Any) -> str:
        """A new object's reference."""
        row = self.pool.store.create(table, self.pool.new_ref(), {"uuid": self.pool.new_uuid(), **fields})
        return str(row.ref)

    def row(self, table: str, name: str) -> Any:
        return next(row for row in self.pool.store.table(table).values() if row["name_label"] == name)

    def write(self, name: str, **fields: Any) -> None:
        """Change a VM."""
        self.pool.store.write(self.row("VM", name), **fields)

    def facts(self) -> PoolFacts:
        with connect(self.pool.url, self.pool.username, self.pool.password, transport=self.pool.transport()) as session:
            return observe(session)

    def downtime(self) -> dict[str, str]:
        """Why guests would be shut down, by name."""
        with connect(self.pool.url, self.pool.username, self.pool.password, transport=self.pool.transport()) as session:
            plan = rolling_upgrade.plan(session)
        assert plan.problems == ()
        return {vm.name: vm.why for vm in plan.downtime}


@pytest.mark.parametrize("release", ["4.0.1", "4.1", "5.0", "5.6", "6.2", "7.1", "8.2"])
def test_a_pool_of_any_release_is_read(release: str) -> None:
    """Classes and fields that a release lacks tie nobody."""
    pool = Pool(release)
    assert not any(vm.tied or vm.devices or vm.apart for vm in pool.facts().vms.values())
    assert pool.downtime() == {}


def test_a_pci_device_ties_a_guest() -> None:
    """Up to 5.6 only a key tells of it, later the device does; the guest is shut down for its host's turn."""
    old = Pool("5.6")
    old.write("vm02", other_config={"pci": "0/0000:04:00.0"})
    assert old.downtime() == {"vm02": "a PCI device is passed through to it"}
    now = Pool("8.2")
    now.add("PCI", host=now.row("host", "host2").ref, attached_VMs=[now.row("VM", "vm02").ref])
    assert now.downtime() == {"vm02": "a PCI device is passed through to it"}


def test_a_usb_device_ties_a_guest() -> None:
    """So does a USB device that is passed through."""
    pool = Pool("8.2")
    pool.add("VUSB", VM=pool.row("VM", "vm02").ref)
    assert pool.downtime() == {"vm02": "a USB device is passed through to it"}


@pytest.mark.parametrize(
    ("implementation", "metadata", "tied"),
    [
        ("nvidia", {"id": "1"}, ""),
        ("nvidia", {}, "it has a virtual GPU"),
        ("passthrough", {"id": "1"}, "it has a virtual GPU"),
    ],
)
def test_a_virtual_gpu_goes_along_where_another_card_can_take_it_over(
    implementation: str, metadata: dict[str, str], tied: str
) -> None:
    """A vGPU of a kind that migrates, on a card that tells what it is compatible with; the guest needs a card of its
    group."""
    pool = Pool("8.2")
    group, host = pool.add("GPU_group", name_label="GPUs"), pool.row("host", "host2").ref
    card = pool.add("PGPU", GPU_group=group, host=host, compatibility_metadata=metadata)
    kind = pool.add("VGPU_type", implementation=implementation)
    pool.add("VGPU", VM=pool.row("VM", "vm02").ref, GPU_group=group, type=kind, resident_on=card)
    facts = pool.facts()
    vm = next(vm for vm in facts.vms.values() if vm.name == "vm02")
    assert (vm.tied, vm.devices) == (tied, {group})
    assert {host.name for host in facts.hosts.values() if group in host.devices} == {"host2"}


def test_only_groups_that_keep_apart_count() -> None:
    """A VM group, which releases after 8.4 have, may ask for its members to be kept apart, or for nothing."""
    groups = {"a": SimpleNamespace(placement="anti_affinity"), "b": SimpleNamespace(placement="normal")}
    assert Devices(groups=groups).apart({"groups": ["a", "b", "gone"]}) == {"a"}


@pytest.mark.parametrize(
    ("host", "guest", "runs"),
    [
        (Cpu("Intel"), Cpu("Intel"), True),
        (Cpu("Intel"), Cpu("AMD"), False),
        (Cpu(), Cpu("AMD"), True),
        (Cpu("Intel", (("hvm", 0b111),)), Cpu("Intel", (("hvm", 0b101),)), True),
        (Cpu("Intel", (("hvm", 0b001),)), Cpu("Intel", (("hvm", 0b101),)), False),
        (Cpu("Intel", (("pv", 0b001),)), Cpu("Intel", (("hvm", 0b101),)), True),
    ],
)
def test_a_processor_runs_what_was_started_with_no_more_than_it_has(host: Cpu, guest: Cpu, runs: bool) -> None:
    """The vendor must be the same, and every feature there; what is not told is not held against it."""
    assert host.runs(guest) is runs


def test_features_are_read_word_by_word() -> None:
    """Features are words of eight hexadecimal digits; a shorter string lacks the last words, and nonsense is none."""
    host = cpu_of_host({"vendor": "GenuineIntel", "features_hvm": "00000001-00000002", "features_pv": "xyz"})
    assert host == Cpu("GenuineIntel", (("hvm", 1 | 2 << 32), ("pv", 0)))
    vm = {"power_state": "Running", "HVM_boot_policy": "BIOS order", "last_boot_CPU_flags": {"features": "00000001"}}
    assert host.runs(cpu_of_guest(vm))
    assert cpu_of_guest({**vm, "power_state": "Halted"}) == Cpu()
