"""Longer ways: hops that installers accept, and what each needs."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import pytest

from mockserver import MockPool
from xenctl.procedures.rolling_upgrade import plan
from xenctl.procedures.upgrade_path import SPECIALS, hops, no_return
from xenctl.releases import accepts, find, known
from xenctl.session import connect


def test_every_hop_is_one_that_an_installer_accepts() -> None:
    """From 4.0.1 to 8.2 the way goes where each installer takes the release before."""
    way = hops(find("4.0.1"), find("8.2"))
    assert way[0].source == find("4.0.1")
    assert way[-1].target == find("8.2")
    assert all(accepts(hop.target, hop.source) for hop in way)
    assert all(a.target == b.source for a, b in pairwise(way))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("4.0.1", "4.1", "do not carry them over"),
        ("5.0", "5.5", "xe-lvm-upgrade"),
        ("6.1", "6.2", "VMPR"),
        ("6.5", "7.0", "safe2upgrade"),
        ("8.0", "8.2", "vSwitch controller"),
        ("8.2", "8.4", "end user agreement"),
        ("XCP-ng 8.2", "XCP-ng 8.3", "by way of 8.2.1"),
    ],
)
def test_a_hop_names_what_it_needs(source: str, target: str, said: str) -> None:
    """What a release brought concerns the hop that crosses it, and no other."""
    (hop,) = hops(find(source), find(target))
    assert any(said in special.text for special in hop.specials)
    assert not any(said in s.text for other in hops(find(target), find(target)) for s in other.specials)


def test_a_point_of_no_return_is_marked() -> None:
    """The storage format of 5.5 cannot be taken back."""
    (hop,) = hops(find("5.0"), find("5.5"))
    assert [special.final for special in hop.specials] == [True]


def test_every_special_is_of_a_release_that_is_known() -> None:
    """Else no hop would ever cross it."""
    versions = {release.version for release in known()}
    assert {special.at for special in SPECIALS} <= versions


def plan_path(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xenctl", "plan-path", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_the_command_tells_the_hops() -> None:
    """In words and as JSON."""
    done = plan_path("--from", "4.0.1", "--to", "8.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1. XenServer 4.0.1 to XenServer 4.1.0\n")
    assert "no way back" in done.stdout
    found = json.loads(plan_path("--from", "4.0.1", "--to", "5.0", "--json").stdout)
    assert [hop["to"] for hop in found["hops"]] == ["XenServer 4.1.0", "XenServer 5.0.0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "8.2"), "give --from RELEASE, or a pool"),
        (("--from", "8.2", "--to", "4.1"), "no upgrade leads from"),
        (("--from", "3.9", "--to", "4.1"), "no release is called '3.9'"),
        (("--from", "8.2"), "Missing option '--to'"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    """Bad usage is exit status 2."""
    done = plan_path(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_points_of_no_return_of_a_hop_are_named() -> None:
    """What the backup partition holds, disks that change, and a format that no older release reads; a plan says so."""
    partition, disks, *more = no_return(find("5.0"), find("5.5"))
    assert "keeps 5.0.0 on its backup partition, and nothing older" in partition
    assert "moved, resized or deleted" in disks
    assert "xe-lvm-upgrade" in "".join(more)
    assert len(no_return(find("8.1"), find("8.2"))) == 2
    pool = MockPool.create(hosts=2, vms=0, release="5.0")
    session = connect(pool.url, pool.username, pool.password, transport=pool.transport())
    assert plan(session).no_return == tuple(no_return(find("5.0"), find("5.5")))
