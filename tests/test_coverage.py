"""The table of messages: told by the verbs, for one release or all, and what is promised of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mockserver import classes, coverage
from xenctl import datamodel
from xenctl.releases import Release, find, known, serves

MESSAGES = [message for cls in datamodel.load().classes.values() for message in cls.messages.values()]
NETWORK = (
    *("auth", "blob", "Bond", "console", "host_crashdump", "host_patch", "message", "network", "PIF", "role", "secret"),
    *("subject", "tunnel", "VIF", "VLAN"),
)
"""The classes of which every message has behaviour or follows from the data model."""

LEFT = {
    "VM": ("import_convert", "recover", "set_uefi_mode", "sysprep"),
    "VM_appliance": ("recover",),
    "pool_patch": (),
    "pool_update": (),
}
"""What is left of those that lack something."""


def rows(release: str | None = None) -> dict[str, coverage.Covered]:
    return {row.name: row for row in coverage.covered(find(release) if release else None)}


def test_every_message_is_counted_once() -> None:
    """Whatever has a verb is there, and nothing that was removed, though older releases answer it."""
    found, model = rows(), datamodel.load()
    for row in found.values():
        names = [*row.behaviour, *row.generic, *row.missing]
        assert len(names) == len(set(names)), row.name
    verbs = {f"{row.name}.{name}" for row in found.values() for name in row.behaviour}
    by_name = {message.wire_name: message for cls in model.classes.values() for message in cls.messages.values()}
    assert verbs == {name for name in classes.VERBS if by_name[name].removed is None}
    gone = {"VM.set_protection_policy", "VM.snapshot_with_quiesce", "pool.enable_ssl_legacy", "host.license_apply"}
    older = set(classes.VERBS) - verbs
    assert {name for name in older if not name.startswith("VMPP.")} == gone
    assert "VMPP" not in found


@pytest.mark.parametrize("name", NETWORK)
def test_network_and_small_classes_are_whole(name: str) -> None:
    assert rows()[name].missing == ()


def test_what_is_left_of_others_is_known() -> None:
    """So that the list shrinks with the work, and grows only on purpose."""
    assert {name: set(rows()[name].missing) for name in LEFT} == {name: set(left) for name, left in LEFT.items()}


def test_an_old_release_has_fewer_messages() -> None:
    """Each release has its own table."""
    old, new = rows("4.0.1"), rows("8.2")
    assert "Bond" not in old and "VMSS" not in old
    assert old["VIF"].explicit == 2 < new["VIF"].explicit
    assert old["VIF"].missing == ()


def test_the_page_of_the_docs_is_in_step() -> None:
    """It is what the command prints for the newest release; the command wants a release to be named."""
    run = [sys.executable, "-m", "mockserver", "--coverage", "--markdown"]
    done = subprocess.run([*run, "--release", "8.4"], capture_output=True, text=True, check=True)
    path = Path(__file__).parents[1] / "docs" / "coverage.md"
    assert done.stdout == path.read_text(), f"make it anew: python {' '.join(run[1:])} --release 8.4 > docs/coverage.md"
    bad = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "mockserver: --markdown is of one release; name it with --release\n"


def test_the_command_prints_the_table() -> None:
    """One line a class and one for all, and what the columns are; a release that nobody knows is an error in one line."""
    run = [sys.executable, "-m", "mockserver", "--coverage"]
    done = subprocess.run([*run, "--release", "8.2"], capture_output=True, text=True, check=True)
    found, legend = done.stdout.split("\n\n")
    assert [line.split("  ")[0] for line in legend.splitlines()] == list(coverage.HEADER[1:5])
    lines = found.splitlines()
    assert lines[0].split() == ["class", "behaviour", "generic", "not", "implemented", "explicit", "missing"]
    assert lines[-1].split()[0] == "all"
    assert [line.split()[0] for line in lines[1:-1]] == list(rows("8.2"))
    (mine,) = [line for line in lines if line.startswith("VM ")]
    assert mine.split()[-1] == rows("8.2")["VM"].missing[-1]
    bad = subprocess.run([*run, "--release", "9.9"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("mockserver: no release is called '9.9'")


CORE = "pool host VM SR VDI VBD VIF PIF PBD network task event session".split()
"""The classes that programs work with most."""
PROMISED, IN_ALL = 0.95, 0.90
"""The share of explicit live messages that have behaviour, of these classes, and of all that a release has."""


def explicit(release: Release, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The explicit live messages of classes: all, and those without behaviour."""
    model = datamodel.load()
    found = [m for name in names for m in coverage.live(model.classes[name], release) if m.kind == "explicit"]
    return [m.wire_name for m in found], [m.wire_name for m in found if coverage.how(m) == "missing"]


@pytest.mark.parametrize("release", known(), ids=lambda release: release.name)
def test_nearly_all_that_is_explicit_has_behaviour(release: Release) -> None:
    """Of the core classes together and one by one; and nearly all of the rest."""
    there = [name for name in CORE if any(coverage.live(datamodel.load().classes[name], release))]
    assert there == CORE
    classes.load()
    for names in (CORE, *([name] for name in CORE)):
        messages, missing = explicit(release, names)
        assert len(missing) <= (1 - PROMISED) * len(messages), (names, missing)
    messages, missing = explicit(release, [row.name for row in coverage.covered(release)])
    assert len(missing) <= (1 - IN_ALL) * len(messages), missing


@pytest.mark.parametrize("release", known(), ids=lambda release: release.name)
def test_the_page_of_every_release_adds_up(release: Release) -> None:
    """Its last line has the sums, of which what is not implemented is no more than a twentieth."""
    table = [line.strip("| ").split(" | ") for line in coverage.page(release).splitlines() if line.startswith("| ")][1:]
    counts = {name: [int(cell) for cell in cells] for name, *cells in table}
    sums = counts.pop("all")
    assert sums == [sum(column) for column in zip(*counts.values(), strict=True)]
    behaviour, generic, missing, stated = sums
    assert missing <= (1 - PROMISED) * (behaviour + generic + missing)
    assert stated == len(explicit(release, counts)[0])


# --- what no release serves


def test_what_came_after_the_newest_release_is_told(calls: Callable[..., Any]) -> None:
    """All of it, on the page of that release, and no host knows it; older releases' pages do not go on about it."""
    newest = find("8.4")
    served = {message.wire_name for release in known() for message in MESSAGES if serves(release, message)}
    told = {
        f"{name}.{one}" for name, by_version in coverage.later(newest) for ones in by_version.values() for one in ones
    }
    assert told == {message.wire_name for message in MESSAGES} - served
    page = coverage.page(newest)
    assert f"{len(told)} messages came with later versions of the toolstack than 24.10" in page
    assert "- `Host_driver`: 25.2.0: deselect" in page
    assert "Later than" not in coverage.page(find("8.2"))
    c = calls(release="8.4", hosts=1)
    for name in ("pool.enable_ssh", "VM.get_groups", "Caller.get_all"):
        assert name in told
        assert c.refused(name, "x") == ["MESSAGE_METHOD_UNKNOWN", name]
