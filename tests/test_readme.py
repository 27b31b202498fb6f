"""The README holds: its commands, its sample of the output, and its code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mockserver import MockPool, PoolServer

pytest_plugins = ["pytester"]

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN = README.splitlines()[:45]
CODE = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_are_on_the_first_screen() -> None:
    commands = [line.strip() for line in FIRST_SCREEN if line.startswith("    python3 -m venv")]
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install '.[cli]' && .venv/bin/xenctl rehearse",
        "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox -e py",
    ]


def test_the_sample_on_the_first_screen_is_the_real_output() -> None:
    """Every line of the sample is printed, in that order; what a machine or a new call changes is left aside."""
    start = next(number for number, line in enumerate(FIRST_SCREEN) if line.split()[:2] == ["host", "before"])
    end = next(number for number, line in enumerate(FIRST_SCREEN) if "invariants broken" in line)
    sample = [plain(line) for line in FIRST_SCREEN[start : end + 1] if line.strip() and line.strip() != "..."]
    command = [sys.executable, "-m", "xenctl", "rehearse"]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    printed = [plain(line) for line in done.stdout.splitlines()]
    assert [line for line in printed if line in sample] == sample


def plain(line: str) -> str:
    """`line` without its spacing, the rest of digests, counts of calls and bytes, and seconds of this machine."""
    line = re.sub(r"(sha256 [0-9a-f]{8})\S+", r"\1", " ".join(line.split()))
    return re.sub(r"^\d+ calls, \S+ MB sent and \S+ MB received, in \S+ s$", "N calls", line)


def test_the_samples_of_code_are_four() -> None:
    assert len(CODE) == 4


def test_the_client_sample_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with PoolServer(MockPool.create(hosts=1, vms=12, release="8.2")) as server:
        exec(CODE[0].replace("https://10.0.0.1", server.url), {"password": "secret"})  # noqa: S102 - our own text
        halted = [vm["name_label"] for vm in server.pool.store.table("VM").values() if vm["power_state"] == "Halted"]
    assert "MiB" in capsys.readouterr().out
    assert halted == []


def test_the_pytest_sample_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CODE[1])
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_sample_without_pytest_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(CODE[2], {})  # noqa: S102 - our own text
    assert capsys.readouterr().out == "3\n"


def test_the_sample_with_requests_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(CODE[3], {})  # noqa: S102 - our own text
    assert capsys.readouterr().out == "401\n"
