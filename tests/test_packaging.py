"""The built package: what is in it, what it needs, and what it adds to the machine it is installed on."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import xenctl

try:
    metadata.distribution("xenctl")
except metadata.PackageNotFoundError:
    pytest.skip("the package is not installed: run tox, or pip install -e .", allow_module_level=True)


def test_what_is_tested_is_installed() -> None:
    """Under tox, the package comes from the environment's library, not from the checkout."""
    if "TOX_ENV_NAME" not in os.environ:
        pytest.skip("only tox builds and installs the package")
    assert Path(xenctl.__file__).is_relative_to(sys.prefix)


def test_it_needs_requests_and_lxml_and_nothing_else() -> None:
    needed = [text for text in metadata.requires("xenctl") or [] if "extra ==" not in text]
    assert sorted(text.split(">")[0] for text in needed) == ["lxml", "requests"]


def test_the_extras_are_for_users() -> None:
    assert metadata.metadata("xenctl").get_all("Provides-Extra") == ["cli", "server", "fast", "fleet", "test"]


def test_it_adds_one_command_and_one_pytest_plugin() -> None:
    points = {(point.group, point.name, point.value) for point in metadata.distribution("xenctl").entry_points}
    assert points == {
        ("console_scripts", "xenctl", "xenctl.cli:main"),
        ("pytest11", "mockserver", "mockserver.pytest_plugin"),
    }


@pytest.mark.parametrize(
    ("package", "name"), [("xenctl", "py.typed"), ("mockserver", "py.typed"), ("xenctl.datamodel", "table.json")]
)
def test_its_data_is_in_it(package: str, name: str) -> None:
    assert resources.files(package).joinpath(name).is_file()


def test_only_the_two_packages_are_in_it() -> None:
    files = metadata.files("xenctl") or []
    tops = {file.parts[0] for file in files if file.suffix in (".py", ".typed", ".json") and file.parts[0] != ".."}
    assert {top for top in tops if not top.endswith((".dist-info", ".egg-info"))} <= {"xenctl", "mockserver"}


def test_its_licence_is_in_it() -> None:
    assert metadata.metadata("xenctl")["License-Expression"] == "MIT"
    assert any(file.name == "LICENSE" for file in metadata.files("xenctl") or [])


def test_the_package_tells_its_version() -> None:
    assert xenctl.__version__ == metadata.version("xenctl")


def test_the_command_tells_its_version() -> None:
    done = subprocess.run([sys.executable, "-m", "xenctl", "--version"], capture_output=True, text=True, check=True)
    assert xenctl.__version__ in done.stdout


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_the_command_without_its_extra_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from xenctl.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "rehearse"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"xenctl: the command needs {missing}; install it with: pip install 'xenctl[cli]'\n"
