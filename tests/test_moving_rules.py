"""What stands against a VM going to another pool: the errors in their order, and what releases differ in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pairs import Pair

Make = Callable[..., Any]


@pytest.fixture
def pair(calls: Make) -> Pair:
    return Pair(calls)


Spoil = Callable[[Pair, Any], "dict[str, Any] | None"]


def _unmapped_snapshot(pair: Pair, vm: Any) -> dict[str, Any]:
    snapshot = pair.c("VM.snapshot", vm.ref, "then")
    vif = pair.c.pool.store.get("VM", snapshot)["VIFs"][0]
    pair.c.pool.store.write(pair.c.pool.store.get("VIF", vif), MAC="02:00:00:00:00:01")
    return {}


def _disabled(pair: Pair, vm: Any) -> None:
    pair.d("host.disable", pair.d.host("host3").ref)


def _old_hardware(pair: Pair, vm: Any) -> None:
    pair.c.pool.store.write(vm, hardware_platform_version=2)
    pair.beside.store.write(pair.d.host("host3"), virtual_hardware_platform_versions=[0, 1])


def _few_processors(pair: Pair, vm: Any) -> None:
    pair.beside.store.write(pair.d.host("host3"), cpu_info={"cpu_count": "1"})
    pair.c.pool.store.write(vm, VCPUs_max=2)


def _little_memory(pair: Pair, vm: Any) -> None:
    pair.d.leave_free("host3", vm["memory_static_max"] // 2)


def _tracked(pair: Pair, vm: Any) -> None:
    pair.c.pool.store.write(pair.c.pool.store.get("VDI", pair.c.vbd("vm01", "0")["VDI"]), cbt_enabled=True)


def _other_processors(pair: Pair, vm: Any) -> None:
    host = pair.d.host("host3")
    pair.beside.store.write(host, cpu_info={**host["cpu_info"], "vendor": "AuthenticAMD"})


def _no_mirrors(pair: Pair, vm: Any) -> None:
    for plugin in pair.beside.store.table("SM").values():
        pair.beside.store.write(plugin, features={"VDI_SNAPSHOT": 1}, capabilities=["VDI_SNAPSHOT"])


def _same_seed(pair: Pair, vm: Any) -> None:
    template = next(
        row for row in pair.beside.store.table("VM").values() if row["is_a_template"] or row["is_control_domain"]
    )
    pair.beside.store.write(template, other_config={"mac_seed": "seed"})
    pair.c.pool.store.write(vm, other_config={**vm["other_config"], "mac_seed": "seed"})


REFUSALS: dict[str, tuple[Spoil, Callable[[Pair, Any], list[str]]]] = {
    "a disk is not mapped": (
        lambda pair, vm: {"vdi_map": {}},
        lambda pair, vm: ["VDI_NOT_IN_MAP", pair.c.vbd("vm01", "0")["VDI"]],
    ),
    "an interface is not mapped": (
        lambda pair, vm: {"vif_map": {}},
        lambda pair, vm: ["VIF_NOT_IN_MAP", vm["VIFs"][0]],
    ),
    "an interface of a snapshot is not mapped": (
        _unmapped_snapshot,
        lambda pair, vm: ["VIF_NOT_IN_MAP", pair.c.row("VM", "then")["VIFs"][0]],
    ),
    "storage that is not there": (
        lambda pair, vm: {"vdi_map": {pair.c.vbd("vm01", "0")["VDI"]: "OpaqueRef:x"}},
        lambda pair, vm: ["HANDLE_INVALID", "SR", "OpaqueRef:x"],
    ),
    "a network that is not there": (
        lambda pair, vm: {"vif_map": {vm["VIFs"][0]: "OpaqueRef:x"}},
        lambda pair, vm: ["HANDLE_INVALID", "network", "OpaqueRef:x"],
    ),
    "a copy of what runs": (
        lambda pair, vm: {"options": {"copy": "true"}},
        lambda pair, vm: ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"],
    ),
    "a host in maintenance": (_disabled, lambda pair, vm: ["HOST_DISABLED", pair.d.host("host3").ref]),
    "older virtual hardware": (
        _old_hardware,
        lambda pair, vm: [
            *(
                "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION",
                pair.d.host("host3").ref,
                "[0; 1]",
                vm.ref,
                "2",
            ),
        ],
    ),
    "too few processors": (_few_processors, lambda pair, vm: ["HOST_NOT_ENOUGH_PCPUS", "2", "1"]),
    "processors of another maker": (
        _other_processors,
        lambda pair, vm: ["VM_INCOMPATIBLE_WITH_THIS_HOST", vm.ref, pair.d.host("host3").ref],
    ),
    "too little memory": (
        _little_memory,
        lambda pair, vm: ["HOST_NOT_ENOUGH_FREE_MEMORY"],
    ),
    "tracked changes": (_tracked, lambda pair, vm: ["VDI_CBT_ENABLED", pair.c.vbd("vm01", "0")["VDI"]]),
    "storage that mirrors nothing": (
        _no_mirrors,
        lambda pair, vm: ["SR_DOES_NOT_SUPPORT_MIGRATION", pair.sr(), "VDI_MIRROR"],
    ),
    "somebody with its seed of MACs": (_same_seed, lambda pair, vm: ["DUPLICATE_MAC_SEED", "seed"]),
    "no session any more": (
        lambda pair, vm: {"dest": {**pair.dest(), "session_id": "OpaqueRef:x"}},
        lambda pair, vm: ["SESSION_INVALID", "OpaqueRef:x"],
    ),
    "nobody at the address": (
        lambda pair, vm: {"dest": {**pair.dest(), "master": "http://10.9.9.9"}},
        lambda pair, vm: ["CANNOT_CONTACT_HOST", "10.9.9.9"],
    ),
}


@pytest.mark.parametrize("method", ["VM.assert_can_migrate", "VM.migrate_send"])
@pytest.mark.parametrize("case", REFUSALS)
def test_what_stands_against_it(pair: Pair, case: str, method: str) -> None:
    """The same is answered beforehand; nothing is done in either pool."""
    spoil, error = REFUSALS[case]
    vm = pair.c.vm("vm01")
    arguments = pair.send(vm, **(spoil(pair, vm) or {}))
    before, disks = pair.traces(), vm["VBDs"]
    found, expected = pair.c.refused(method, *arguments), error(pair, vm)
    assert found[: len(expected)] == expected
    assert (pair.traces(), vm["current_operations"], vm["VBDs"]) == (before, {}, disks)
    pair.c("VM.clean_shutdown", vm.ref)


def test_who_insists_may_go_to_processors_of_another_maker(pair: Pair) -> None:
    """And so may a VM that is off."""
    _other_processors(pair, None)
    pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm01"), options={"force": "true"}))
    pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm04")))
    assert [pair.d.vm(name)["power_state"] for name in ("vm01", "vm04")] == ["Running", "Halted"]
    pair.unharmed()


@pytest.mark.parametrize(
    ("release", "to", "error"),
    [
        ("8.2", "7.6", "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE"),
        ("7.1", "7.0", "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE"),
        ("7.0", "6.5", "NOT_SUPPORTED_DURING_UPGRADE"),
    ],
)
def test_it_does_not_go_to_an_older_host(calls: Make, release: str, to: str, error: str) -> None:
    """The error says so by a name of its own since 7.1."""
    pair = Pair(calls, release=release, to=to)
    vm = pair.c.vm("vm01")
    params = [vm.ref, pair.d.host("host3").ref] if error.endswith("_MIGRATE") else []
    assert pair.c.refused("VM.migrate_send", *pair.send(vm)) == [error, *params]


@pytest.mark.parametrize(("release", "to"), [("6.1", "6.5"), ("6.5", "8.2"), ("7.0", "8.4")])
def test_it_goes_to_a_newer_host(calls: Make, release: str, to: str) -> None:
    """Fields that the newer release has besides get their defaults."""
    pair = Pair(calls, release=release, to=to)
    new = pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm01")))
    assert pair.d.pool.store.get("VM", new)["power_state"] == "Running"
    pair.unharmed()


def test_before_7_0_an_interface_finds_its_network_by_name(calls: Make) -> None:
    """Nobody asked for a map."""
    pair = Pair(calls, release="6.5")
    new = pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm01"), vif_map={}))
    store = pair.beside.store
    assert {store.get("VIF", ref)["network"] for ref in store.get("VM", new)["VIFs"]} == {pair.network}


@pytest.mark.parametrize("release", ["6.1", "6.2", "6.5"])
def test_6_1_and_6_2_moved_one_snapshot_without_memory(calls: Make, release: str) -> None:
    """Later releases move all of them."""
    pair = Pair(calls, release=release)
    vm = pair.c.vm("vm01")
    first = pair.c("VM.checkpoint", vm.ref, "one")
    if release != "6.5":
        assert pair.c.refused("VM.assert_can_migrate", *pair.send(vm)) == ["VM_HAS_CHECKPOINT", vm.ref]
    pair.c("VM.destroy", first)
    pair.c("VM.snapshot", vm.ref, "one")
    pair.c("VM.assert_can_migrate", *pair.send(vm))
    pair.c("VM.snapshot", vm.ref, "two")
    if release != "6.5":
        assert pair.c.refused("VM.assert_can_migrate", *pair.send(vm)) == ["VM_HAS_TOO_MANY_SNAPSHOTS", vm.ref]
    else:
        pair.c("VM.assert_can_migrate", *pair.send(vm))


def test_the_session_over_there_must_be_allowed_to_take_it(pair: Pair) -> None:
    """One that only reads may neither ask for a move nor be used for one."""
    c, d = pair.c, pair.d
    session = d.pool.store.get("session", d.session)
    dest = pair.dest()
    d.pool.store.write(d.pool.store.get("session", dest["session_id"]), is_local_superuser=False, rbac_permissions=[])
    found = c.refused("VM.migrate_send", *pair.send(c.vm("vm01"), dest=dest))
    assert found[:2] == ["RBAC_PERMISSION_DENIED", "http/post_services_sm"]
    d.pool.store.write(session, is_local_superuser=False, rbac_permissions=[])
    assert d.refused("host.migrate_receive", d.host("host3").ref, pair.network, {})[0] == "RBAC_PERMISSION_DENIED"


def test_a_pool_of_another_world_is_not_reached(calls: Make) -> None:
    """It may have the same addresses; the refusal says what would be reached."""
    c, far = calls(release="8.2", hosts=1, vms=1), calls(release="8.2", hosts=1, seed=1)
    network = next(iter(far.pool.store.table("network")))
    dest = far("host.migrate_receive", far.host("host1").ref, network, {})
    vm = c.vm("vm01")
    found = c.refused("VM.migrate_send", vm.ref, dest, True, {}, {}, {}, {})
    assert found == ["NOT_IMPLEMENTED", "VM.migrate_send to a host that neither this pool nor a neighbour of it has"]
