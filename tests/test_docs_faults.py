"""docs/faults.md holds: its samples run, and print what is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run(number: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a sample prints."""
    exec(compile(CODE[number], "docs/faults.md", "exec"), {"__name__": "sample"})  # noqa: S102 - it is our own
    return capsys.readouterr().out


def test_the_sample_of_one_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """The call was done, and nobody was told."""
    assert run(0, capsys) == "Halted\n"


def test_the_sample_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what the document shows, and more of the same."""
    (shown,) = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert run(1, capsys).startswith(shown)


def test_the_sample_of_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """The calls, and the past."""
    lines = run(2, capsys).splitlines()
    assert lines[0].startswith("1 session.login_with_password 0.0")
    assert any(line.startswith("3 VM.clean_shutdown 25.0") for line in lines)
    assert lines[-1] == "Running"
