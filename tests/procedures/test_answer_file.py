"""Answer files: made for each release's installer, read back, and refused where they would destroy."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from xenctl.procedures.answer_file import (
    CLEAN,
    MODES,
    AnswerFile,
    AnswerFileError,
    Interface,
    Place,
    RootPassword,
    Script,
    assert_preserves,
    place_of,
    read,
    write,
)
from xenctl.releases import Release, find, known

UPGRADE = AnswerFile("upgrade", "sda", (Place("local"),))
FRESH = AnswerFile(
    "fresh",
    "sda",
    (Place("url", "http://10.0.0.9/media"),),
    interface=Interface("eth0", protocol="static", address="10.0.0.1", netmask="255.0.0.0", gateway="10.0.0.254"),
    root_password=RootPassword("hash", "$6$x"),
    guest_disks=("sdb", "sdc"),
    name_servers=("10.0.0.53",),
    ntp_servers=("10.0.0.123",),
    hostname="host1",
    timezone="Europe/London",
    keymap="uk",
    sr_type="ext",
)


@pytest.mark.parametrize("release", [release for release in known() if release > find("4.0.1")], ids=str)
def test_what_is_written_is_read_back(release: Release) -> None:
    """For each release, in the mode that preserves."""
    assert read(write(UPGRADE, release), release=release) == UPGRADE


@pytest.mark.parametrize("text", ["5.6", "6.0", "6.2", "8.2"])
def test_a_clean_installation_is_written_where_nothing_is_to_be_preserved(text: str) -> None:
    """All its elements, in the spelling of the release."""
    release = find(text)
    data = write(FRESH, release, preserving=False)
    assert read(data, release=release) == FRESH
    assert (b"<nameserver>" in data) == (release < find("6.1"))


@pytest.mark.parametrize("mode", CLEAN)
@pytest.mark.parametrize("text", ["4.0.1", "5.0", "8.2"])
def test_what_does_not_preserve_is_refused(mode: str, text: str) -> None:
    """`reinstall` too, whatever its name says."""
    with pytest.raises(
        AnswerFileError, match=f"{mode} does not preserve settings and guests: the mode that does is upgrade"
    ):
        write(replace(FRESH, mode=mode), find(text))


def test_an_unattended_upgrade_to_4_0_would_lose_the_database() -> None:
    """Its installer makes no backup then."""
    with pytest.raises(AnswerFileError, match="does not back up the old system, and loses the pool's database"):
        write(UPGRADE, find("4.0.1"))


def test_the_installer_is_told_of_its_disk_in_the_words_that_all_take() -> None:
    """Up to 5.6 they put /dev/ in front of it themselves."""
    data = write(replace(UPGRADE, disk="/dev/sda"), find("5.0"))
    assert b"<existing-installation>sda</existing-installation>" in data


def test_a_restoring_file() -> None:
    """From 6.1 on; the disk of the backup from 6.2 on."""
    assert read(write(AnswerFile("restore"), find("6.1"))) == AnswerFile("restore")
    disk = AnswerFile("restore", "sda")
    assert read(write(disk, find("6.2"))) == disk
    with pytest.raises(
        AnswerFileError, match=r"<backup-disk> would be passed over: installers know it from 6\.2\.0 on"
    ):
        write(disk, find("6.1"))
    with pytest.raises(AnswerFileError, match=r"installers restore unattended from 6\.1\.0 on"):
        write(AnswerFile("restore"), find("6.0"))


@pytest.mark.parametrize(
    ("changed", "text", "said"),
    [
        ({"mode": "keep"}, "8.2", "mode is upgrade, reinstall, fresh, restore, not 'keep'"),
        ({"sources": ()}, "8.2", "no <source> says where to install from"),
        ({"sources": (Place("local"), Place("local"))}, "6.2", r"several sources from 7\.1\.0 on"),
        ({"sources": (Place("url"),)}, "8.2", "a source of type url has no address"),
        ({"disk": ""}, "8.2", "no <existing-installation> names the disk"),
        ({"driver_sources": (Place("local"),)}, "5.0", r"<driver-source> would be passed over: .* from 5\.5\.0 on"),
        ({"bootloader": "grub"}, "6.0", "boot loader grub is not one of this installer's"),
        ({"network_backend": "bridge"}, "5.5", r"<network-backend> would be passed over"),
        ({"scripts": (Script("installation-start", "url", "http://a/b"),)}, "5.6", "not at 'installation-start'"),
        ({"scripts": (Script("filesystem-populated", "local", ""),)}, "8.2", "needs the type url or nfs"),
        ({"confirm": True}, "6.2", "<ui-confirmation-prompt> would be passed over"),
    ],
)
def test_what_the_installer_would_stop_at_or_pass_over_is_not_written(
    changed: dict[str, object], text: str, said: str
) -> None:
    """Each release knows its own elements."""
    with pytest.raises(AnswerFileError, match=said):
        write(replace(UPGRADE, **changed), find(text))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "line 1: no XML"),
        (b"<installation mode='upgrade'>\n<source>", "line 2: no XML: "),
        (b"<html/>", "line 1: <html> is no answer file"),
        (b"\n<installation mode='keep'/>", "line 2: mode is upgrade, reinstall, fresh, not 'keep'"),
        (
            b"<installation mode='upgrade'>\n<source type='cd'/></installation>",
            'line 2: <source> needs type="local|url|nfs"',
        ),
        (
            b"<installation mode='upgrade'><source type='local'/></installation>",
            "no <existing-installation> names the disk",
        ),
        (
            b"<installation><source type='local'/><primary-disk>sda</primary-disk></installation>",
            "no <admin-interface> with a name or hwaddr",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_what_to_do(data: bytes, said: str) -> None:
    """The line, and the way to mend it."""
    with pytest.raises(AnswerFileError) as caught:
        read(data, source="a.xml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.xml: ")


def test_an_upgrade_element_without_a_mode_is_a_clean_installation() -> None:
    """As installers have it: the name of the element means nothing."""
    data = write(FRESH, find("8.2"), preserving=False).replace(b'installation mode="fresh"', b"upgrade")
    answer = read(data.replace(b"</installation>", b"</upgrade>"))
    assert answer.mode == "fresh"
    assert "line 2: <upgrade> without a mode is a clean installation: everything would be lost" in answer.unknown
    with pytest.raises(AnswerFileError, match="its mode is fresh, which does not preserve settings and guests"):
        assert_preserves(answer)


def test_what_is_passed_over_is_reported() -> None:
    """With its line and the reason: unknown to all, to this release, or in this mode."""
    text = """<installation mode="upgrade">
  <source type="url">nfs://server:/media</source>
  <driver-source type="local"/>
  <existing-installation>/dev/sda</existing-installation>
  <exisiting-installation>sdb</exisiting-installation>
  <keymap>uk</keymap>
</installation>"""
    answer = read(text.encode(), release=find("5.0"))
    assert answer.sources == (Place("nfs", "server:/media"),)
    assert answer.unknown == (
        "line 3: <driver-source> is passed over: installers know it from 5.5.0 on",
        "line 5: <exisiting-installation> is passed over: no installer knows it",
        "line 6: <keymap> is passed over: it says nothing in mode upgrade",
    )


def test_no_entity_and_no_file_is_fetched(tmp_path: Path) -> None:
    """An answer file from elsewhere cannot make us read ours."""
    secret = tmp_path / "secret"
    secret.write_text("hush")
    data = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret}">]><restore><backup-disk>&e;</backup-disk></restore>'
    assert "hush" not in str(read(data.encode()))


def test_rubbish_never_ends_in_anything_but_its_own_error() -> None:
    """Bytes of a good file, damaged at random."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201
    chance, good = random.Random(seed), bytearray(write(FRESH, find("8.2"), preserving=False))
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(AnswerFileError):
            assert read(bytes(data)).mode in MODES


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("local", Place("local")),
        ("http://me:hush@server/x", Place("url", "http://me:hush@server/x")),
        ("nfs://server:/x", Place("nfs", "server:/x")),
    ],
)
def test_places_are_named_as_people_do(text: str, place: Place) -> None:
    """`local`, a URL, or NFS."""
    assert place_of(text) == place
    with pytest.raises(AnswerFileError, match="not 'cd'"):
        place_of("cd")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xenctl", "answer-file", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_writes_and_reads(tmp_path: Path) -> None:
    """A file of its owner's, whole or not there; read back, it says what it means."""
    path = tmp_path / "answers.xml"
    made = command("--release", "8.2", "--disk", "sda", "--source", "local", "--to", str(path))
    assert (made.returncode, made.stderr) == (0, "")
    assert read(path.read_bytes()) == UPGRADE
    shown = command("--read", str(path))
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "settings and guests are preserved")
    path.write_bytes(write(FRESH, find("8.2"), preserving=False))
    shown = command("--read", str(path), "--json")
    found = json.loads(shown.stdout)
    assert (shown.returncode, found["ok"], found["mode"], found["root_password"]) == (
        1,
        False,
        "fresh",
        {"type": "hash"},
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--disk", "sda"), "give --release"),
        (("--read", "x", "--disk", "sda"), "--read goes with --release and --json alone"),
        (("--read", "/no/such/file"), "No such file"),
        (
            ("--release", "8.2", "--disk", "sda", "--source", "local", "--mode", "reinstall"),
            "reinstall does not preserve",
        ),
        (("--release", "99", "--disk", "sda", "--source", "local"), "no release is called '99'"),
        (("--release", "8.2", "--disk", "sda", "--source", "cd"), "a source is local, a URL"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    """And exit status 2."""
    done = command(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
