"""Templates that come with a release, and VMs made of them; hosts with several network cards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from lxml import etree

from mockserver import MockPool, __main__
from xenctl import connect

Make = Callable[..., Any]
NFS = "NFS virtual disk storage"
NAMES = {
    "4.0.1": ["Other install media", "Debian Etch 4.0", "CentOS 5.0", "Windows Server 2003"],
    "6.2": ["Other install media", "Debian Wheezy 7.0 (64-bit)", "CentOS 5 (64-bit)", "Windows 7 (64-bit)"],
    "8.2": ["Other install media", "Debian Buster 10", "CentOS 7", "Windows 10 (64-bit)"],
}


def templates(pool: MockPool) -> list[Any]:
    return [row for row in pool.store.table("VM").values() if row["is_a_template"]]


@pytest.mark.parametrize("release", NAMES)
def test_a_pool_has_the_templates_of_its_release(calls: Make, release: str) -> None:
    """Marked as those that come with it; what a VM of theirs needs is told as there."""
    c = calls(release=release, vms=1, templates=True)
    found = templates(c.pool)
    assert [row["name_label"] for row in found] == NAMES[release]
    for row in found:
        config = row["other_config"]
        assert (config["default_template"], row.get("is_default_template", True)) == ("true", True)
        assert ("linux_template" in config) == ("CentOS" in row["name_label"] or "Debian" in row["name_label"])
        assert {"clone", "copy", "provision", "export"} <= set(row["allowed_operations"])
        assert not {"start", "destroy"} & set(row["allowed_operations"])
        assert [limit.get("max") for limit in etree.fromstring(row["recommendations"])][1:] == ["16", "7", "7"]
        assert c.refused("VM.destroy", row.ref)
    virtual = {row["name_label"].split()[0]: bool(row["HVM_boot_policy"]) for row in found}
    assert virtual == {"Other": True, "Debian": release == "8.2", "CentOS": release == "8.2", "Windows": True}


@pytest.mark.parametrize("release", ["4.0.1", "6.2", "8.2"])
@pytest.mark.parametrize("kind", ["Debian", "CentOS", "Windows"])
def test_a_vm_of_a_template_starts(calls: Make, release: str, kind: str) -> None:
    """Cloned, told where its disks go, provisioned, started: it has its disk, and reports an address."""
    c = calls(release=release, vms=1, templates=True)
    (template,) = (row for row in templates(c.pool) if kind in row["name_label"])
    vm = c("VM.clone", template.ref, "mine")
    config = c("VM.get_other_config", vm)
    assert "default_template" not in config
    c("VM.remove_from_other_config", vm, "disks")
    c("VM.add_to_other_config", vm, "disks", config["disks"].replace('sr=""', f'sr="{c.row("SR", NFS)["uuid"]}"'))
    network = next(iter(c.pool.store.table("network")))
    c(
        "VIF.create",
        {
            "VM": vm,
            "network": network,
            "device": "0",
            "MAC": "",
            "MTU": 1500,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        },
    )
    c("VM.provision", vm)
    (disk,) = c.pool.vbds(c.vm("mine"))
    assert c.pool.store.get("VDI", disk["VDI"])["virtual_size"] >= 4 << 30
    assert disk["bootable"]
    c("VM.start", vm, False, False)
    c.sleep(300)
    agent = c.pool.store.get("VM_guest_metrics", c.vm("mine")["guest_metrics"])
    assert agent["networks"]["0/ip"].startswith("10.")
    assert c.unharmed()


def test_who_asks_for_none_gets_the_pool_that_there_was(calls: Make) -> None:
    """No template, and the same names, uuids and references as with them."""
    c, more = calls(vms=2), calls(vms=2, templates=True)
    assert templates(c.pool) == []
    assert set(c.pool.store.table("VM")) < set(more.pool.store.table("VM"))
    assert templates(c.pool.neighbour()) == []


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_hosts_have_as_many_cards_as_they_are_given(calls: Make, release: str) -> None:
    """Each on a network of the pool; the first manages. The machine has them, too."""
    c = calls(release=release, hosts=2, vms=1, nics=3)
    pifs = list(c.pool.store.table("PIF").values())
    assert sorted(pif["device"] for pif in pifs) == ["eth0", "eth0", "eth1", "eth1", "eth2", "eth2"]
    assert [pif["device"] for pif in pifs if pif.get("management", pif["device"] == "eth0")] == ["eth0", "eth0"]
    assert len({pif["MAC"] for pif in pifs}) == 6
    assert {row["bridge"] for row in c.pool.store.table("network").values()} == {"xenbr0", "xenbr1", "xenbr2"}
    assert sorted(device for device, _ in c.pool.machine("host2").nics) == ["eth0", "eth1", "eth2"]
    cards = [pif.ref for pif in pifs if pif["host"] == c.host("host1").ref and pif["device"] != "eth0"]
    if release == "8.2":
        network = c("network.create", {"name_label": "bonded", "other_config": {}})
        c("Bond.create", network, cards, "", "balance-slb")


@pytest.mark.parametrize("nics", [0, -1, 17])
def test_a_number_of_cards_that_cannot_be_is_refused(nics: int) -> None:
    """The error says how many there may be."""
    with pytest.raises(ValueError, match=f"a host has 1 to 16 network cards, not {nics}"):
        MockPool.create(nics=nics)


def test_the_command_line_makes_them(tmp_path: Any) -> None:
    """`--templates` and `--nics`; neither goes with a dump."""
    options = __main__.parser().parse_args(["--templates", "--nics", "2"])
    assert (options.templates, options.nics) == (True, 2)
    for words in (["--templates"], ["--nics", "2"]):
        assert __main__.main(["--dump", str(tmp_path / "x"), *words]) == 2
    words = "-m mockserver --templates --nics 2 --vms 0 --hosts 1 --release 8.2".split()
    command = [sys.executable, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            with connect(ready["url"], "root", "secret") as session:
                names = [vm.name_label for vm in session.VM.get_all_records().values() if vm.is_a_template]
                assert sorted(names) == sorted(NAMES["8.2"])
                assert len(session.PIF.get_all()) == 2
        finally:
            process.terminate()
