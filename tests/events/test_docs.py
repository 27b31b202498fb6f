"""The page about events holds: its sample runs, and the numbers in it are those of the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xenctl import tasks
from xenctl.events import cache, feeds

if TYPE_CHECKING:
    from conftest import Fake

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_the_sample_runs(make: Callable[..., Fake], release: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    fake = make(release)
    vms = fake.pool.store.table("VM").values()
    halted = next(vm for vm in vms if vm["power_state"] == "Halted" and not vm["is_a_template"])
    running = [vm.ref for vm in vms if vm["power_state"] == "Running" and not vm["is_control_domain"]]
    fake.later(10.0, fake.rename, halted["name_label"], "web")
    names = {"session": fake.session, "vms": running}
    exec(code, names)  # noqa: S102 - our own text
    assert halted["power_state"] == "Running"
    assert names["results"] == [None] * len(running)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"VM mod {halted.ref} web"
    assert printed[-1] == "VM.clean_shutdown 1.0"


@pytest.mark.parametrize(
    "text",
    [
        f"after 1, 2, 4, 8, then every {cache.LONGEST_PAUSE:g} s",
        f"no longer than {feeds.SHARE:.0%} of the".replace("%", " %"),
        f"one in {cache.POLL:g} s",
        f"for each heartbeat of the pool, {feeds.HEARTBEAT:g} s",
        f"is asked every {feeds.LOOK:g} s instead",
        f"one more for each {tasks.LONGEST_CALL:g} s of silence",
        f"pauses between calls grow from {tasks.GATHER:g} to {tasks.LONGEST_GATHER:g} s",
        f"after {tasks.FIRST_PAUSE:g} s, then ever\nless often, every {tasks.LONGEST_PAUSE:g} s at last",
    ],
)
def test_the_numbers_are_those_of_the_code(text: str) -> None:
    assert text in PAGE
