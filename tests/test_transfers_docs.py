"""The page about transfers holds: its sample runs, and its table names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mockserver import MockPool
from xenctl import transfers
from xenctl.session import connect
from xenctl.transfers import bound

PAGE = (Path(__file__).parents[1] / "docs" / "transfers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("release", ["6.5", "8.2"])
def test_the_sample_runs(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of its own, where it leaves the files that it names."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    pool = MockPool.create(release=release)
    vm = next(vm for vm in pool.store.table("VM").values() if vm["name_label"] == "vm04")
    for vdi in pool.store.table("VDI").values():
        pool.store.write(vdi, virtual_size=16 << 20)
    with connect(pool.url, "root", "secret", transport=pool.transport()) as session:
        exec(code, {"session": session, "vm": vm.ref})  # noqa: S102 - our own text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "pool.xml", "vm.xva"]
    assert capsys.readouterr().out.endswith(f"{(tmp_path / 'vm.xva').stat().st_size} None\n")


def test_the_table_names_every_function_and_handler() -> None:
    """With the handlers' paths."""
    assert [name for name in transfers.__all__ if name[0].islower() and f"`{name}`" not in PAGE] == []
    handlers = [value for value in vars(transfers).values() if isinstance(value, bound.Handler)]
    assert {handler.path for handler in handlers} == set(re.findall(r"`(/[\w/]+)`", PAGE))
