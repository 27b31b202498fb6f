"""What type checkers make of the installed package: typical code passes, and typical mistakes are seen, each on its line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

Checker = Callable[[Path, Path], dict[int, str]]

SAMPLES = Path(__file__).parent / "typing"


def mypy(sample: Path, folder: Path) -> dict[int, str]:
    """What `mypy --strict` reports, by line."""
    done = _run(
        "mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache"), str(sample), folder=folder
    )
    assert not done.stderr
    assert done.returncode in (0, 1), done.stdout
    found = re.findall(r"^.+?\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert bool(found) == bool(done.returncode), done.stdout
    return {int(line): text for line, text in found}


def pyright(sample: Path, folder: Path) -> dict[int, str]:
    """What pyright reports in its strict mode, by line."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = _run("pyright", "--pythonpath", sys.executable, "--outputjson", str(sample), folder=folder)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    return {item["range"]["start"]["line"] + 1: item["message"] for item in report["generalDiagnostics"]}


def _run(checker: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a checker in an empty folder, where it finds the installed package only."""
    command = [sys.executable, "-m", checker, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


CHECKERS = [
    pytest.param(
        checker,
        id=checker.__name__,
        marks=pytest.mark.skipif(
            find_spec(checker.__name__) is None, reason=f"{checker.__name__} is not installed; tox -e types has it"
        ),
    )
    for checker in (mypy, pyright)
]


@pytest.mark.parametrize("checker", CHECKERS)
def test_typical_code_passes(checker: Checker, tmp_path: Path) -> None:
    assert checker(SAMPLES / "user_code.py", tmp_path) == {}


@pytest.mark.parametrize("checker", CHECKERS)
def test_typical_mistakes_are_reported_and_nothing_else(checker: Checker, tmp_path: Path) -> None:
    sample = SAMPLES / "mistakes.py"
    lines = dict(enumerate(sample.read_text(encoding="utf-8").splitlines(), 1))
    expected = {number for number, line in lines.items() if "# E:" in line}
    reported = checker(sample, tmp_path)
    assert len(expected) > 50
    assert {lines[number] for number in expected - set(reported)} == set()
    assert {lines[number]: reported[number] for number in set(reported) - expected} == {}
