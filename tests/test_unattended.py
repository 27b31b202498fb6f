"""Installers that ask nobody: an answer file boots with the medium. And what an installation drops: supplemental packs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver.machine.host import MachineRoomError

Make = Callable[..., Any]

UPGRADE = b"""<installation mode="upgrade"><source type="local"/>
<existing-installation>sda</existing-installation></installation>"""
REINSTALL = b'<installation mode="reinstall"><source type="local"/><primary-disk>sda</primary-disk></installation>'
NO_MODE = b'<upgrade><source type="local"/><primary-disk>sda</primary-disk></upgrade>'


def boot(c: Any, host: str, release: str, answers: bytes) -> None:
    """Boot a medium that has an answer file."""
    c.halt(host)
    c.pool.hands.insert_media(host, release, answers)
    c.pool.hands.power_on(host)


@pytest.mark.parametrize("release", ["4.1", "5.6", "7.1", "8.2"])
def test_an_answer_file_upgrades_without_asking(calls: Make, release: str) -> None:
    """The host keeps its identity, its place in the pool and its backup; the medium is out afterwards."""
    c = calls(release=release)
    machine = c.pool.machine("host2")
    uuid = machine.system.installation_uuid
    boot(c, "host2", release, UPGRADE)
    c.until(lambda: machine.state == "running")
    c = c.back()
    assert machine.system.installation_uuid == uuid
    assert machine.backup is not None and (machine.media, machine.told) == (None, "")
    assert c("host.get_enabled", c.host("host2").ref)


@pytest.mark.parametrize(("answers", "backed_up"), [(REINSTALL, True), (NO_MODE, False)])
def test_other_modes_make_a_stranger_of_the_host(calls: Make, answers: bytes, backed_up: bool) -> None:
    """`reinstall` leaves a backup, and no mode is a clean installation whatever the element is called."""
    c = calls(release="8.2")
    machine = c.pool.machine("host2")
    uuid = machine.system.installation_uuid
    boot(c, "host2", "8.2", answers)
    c.until(lambda: machine.state == "running")
    assert machine.system.installation_uuid != uuid and machine.pool is not c.pool
    assert (machine.backup is not None) == backed_up


def test_an_answer_file_restores_the_backup(calls: Make) -> None:
    """What the next installation put there is gone again."""
    c = calls(release="8.2")
    boot(c, "host2", "8.2", UPGRADE)
    c.until(lambda: c.pool.machine("host2").state == "running")
    c = c.back()
    c.pool.hands.install_pack("host2", "acme:agent", "Agent, version 1.0")
    boot(c, "host2", "8.2", b"<restore/>")
    c.until(lambda: c.pool.machine("host2").state == "running")
    assert c.pool.machine("host2").system.packs == {}


def test_what_cannot_be_done_stops_at_the_screen(calls: Make) -> None:
    """A member before its master is not upgraded; somebody has to see to it."""
    c = calls(release="8.1")
    boot(c, "host2", "8.2", UPGRADE)
    c.sleep(7200)
    assert (c.pool.hands.power("host2"), c.pool.hands.offers("host2")) == ("installer", ("fresh",))


@pytest.mark.parametrize(
    ("data", "release", "said"),
    [
        (b"<installation", "8.2", "is no XML"),
        (b"<installation mode='keep'><source/></installation>", "8.2", "makes nothing of"),
        (b"<installation mode='upgrade'/>", "8.2", "has no <source>"),
        (b"<installation mode='upgrade'><source/></installation>", "8.2", "has no <existing-installation>"),
        (b"<restore/>", "6.0", "makes nothing of <restore"),
    ],
)
def test_what_is_no_answer_file_is_refused(calls: Make, data: bytes, release: str, said: str) -> None:
    """Nothing is in the drive then."""
    c = calls(release="8.2")
    with pytest.raises(ValueError, match=said):
        c.pool.hands.insert_media("host1", release, data)
    assert c.pool.machine("host1").media is None


def test_the_oldest_release_is_not_upgraded_unattended(calls: Make) -> None:
    """It would lose its database, which the fake does not emulate, and says so."""
    with pytest.raises(MachineRoomError, match="loses the database; it is not emulated"):
        calls(release="4.0.1").pool.hands.insert_media("host1", "4.0.1", UPGRADE)


@pytest.mark.parametrize("release", ["4.0.1", "6.2", "8.2"])
def test_supplemental_packs_are_lost_with_an_installation(calls: Make, release: str) -> None:
    """They stand among the host's versions, through restarts, until it is installed anew."""
    c = calls(release=release)
    c.pool.hands.install_pack("host2", "acme:agent", "Agent, version 1.0")
    assert c("host.get_software_version", c.host("host2").ref)["acme:agent"] == "Agent, version 1.0"
    c("host.restart_agent", c.host("host2").ref)
    c.sleep(600)
    assert "acme:agent" in c.again()("host.get_software_version", c.host("host2").ref)
    c = c.upgrade("host2", release)
    assert "acme:agent" not in c("host.get_software_version", c.host("host2").ref)
