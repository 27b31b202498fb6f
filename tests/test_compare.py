"""What two pools differ in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mockserver.compare import Change, compare

Make = Callable[..., Any]


def test_a_change_is_told_by_table_object_and_field(calls: Make) -> None:
    """With the values before and after, and a line for each."""
    c = calls(vms=2)
    fork, vm = c.pool.fork(), c.vm("vm01")
    c.pool.store.write(vm, name_description="old" * 40)
    fork.store.write(fork.store.get("VM", vm.ref), name_description="", VCPUs_max=4)
    found = compare(c.pool, fork)
    assert found.changes == (
        Change("changed", "VM", vm.ref, vm["uuid"], "vm01", "VCPUs_max", 1, 4),
        Change("changed", "VM", vm.ref, vm["uuid"], "vm01", "name_description", "old" * 40, ""),
    )
    assert list(found.by_table()) == ["VM"]
    assert found.text().splitlines() == [
        "VM vm01: VCPUs_max 1 -> 4",
        f"VM vm01: name_description {('old' * 40)[:57]}... -> ''",
    ]
    assert found.text(limit=1).splitlines()[1:] == ["... and 1 more"]


def test_objects_that_one_side_lacks(calls: Make) -> None:
    """Each is one change, whatever fields it has."""
    c = calls(vms=1)
    fork = c.pool.fork()
    disk = c.vbd("vm01", "0")["VDI"]
    fork.store.delete(fork.store.get("VDI", disk))
    fork.store.create("network", "OpaqueRef:n", {"uuid": "n", "name_label": "new network"})
    found = {str(change) for change in compare(c.pool, fork).changes}
    assert {"VDI disk of vm01 removed", "network new network added"} <= found


def test_what_is_counts_as_well_as_what_is_believed(calls: Make) -> None:
    """Power, toolstacks, domains and the content of disks."""
    c = calls(vms=1)
    fork = c.pool.fork()
    fork.hands.power_off("host2")
    fork.disk_of(c.vbd("vm01", "0")["VDI"]).blocks[3] = b"changed"
    found = compare(c.pool, fork)
    assert {(x.table, x.name, x.field, x.after) for x in found.changes if x.table == "machine"} == {
        ("machine", "host2", "state", "off"),
        ("machine", "host2", "toolstack", "down"),
    }
    assert [x.field for x in found.by_table()["disk"]] == ["content"]


def test_what_changes_by_itself_can_be_passed_over(calls: Make) -> None:
    """Sessions, tasks, allowed operations and times; what somebody decided stays."""
    c = calls(vms=1, release="8.2")
    fork = c.pool.fork()
    session = fork.dispatch("session.login_with_password", ["root", "secret"])
    fork.clock.advance(7000.0)
    fork.dispatch("VM.set_tags", [session, c.vm("vm01").ref, ["mine"]])
    host = fork.store.get("host", c.host("host1").ref)
    fork.store.write(host, other_config={**host["other_config"], "agent_start_time": "1."})
    assert {"session", "host", "VM"} <= set(compare(c.pool, fork).by_table())
    left = compare(c.pool, fork, volatile=False)
    assert [str(x) for x in left.changes if x.table != "disk"] == ["VM vm01: tags [] -> ['mine']"]
    fork.store.write(host, other_config={**host["other_config"], "mine": "1"})
    assert "host" in compare(c.pool, fork, volatile=False).by_table()


def test_pools_made_apart_are_paired_by_uuid(calls: Make) -> None:
    """The same seed gives the same objects; another reference is no difference if the uuid is the same."""
    one, two = calls(vms=1, seed=4).pool, calls(vms=1, seed=4).pool
    assert not compare(one, two)
    for pool, ref in ((one, "OpaqueRef:a"), (two, "OpaqueRef:b")):
        pool.store.create("network", ref, {"uuid": "shared", "name_label": ref})
    assert [str(change) for change in compare(one, two).changes] == [
        "network OpaqueRef:a: name_label OpaqueRef:a -> OpaqueRef:b"
    ]
