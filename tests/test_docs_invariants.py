"""docs/invariants.md holds: its samples run, and its tables list every invariant with what it says of itself."""

from __future__ import annotations

import re
from pathlib import Path

from mockserver import Invariant, MockPool
from mockserver.invariants import rolling_upgrade, sound

TEXT = (Path(__file__).parent.parent / "docs" / "invariants.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def listed(heading: str) -> dict[str, str]:
    """The rows of the table under a heading."""
    part = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE)
    return {name: text for name, text in rows if name not in ("invariant", "---")}


def test_the_tables_list_every_invariant() -> None:
    """Those of every pool in the first, those of an upgrade alone in the second."""
    everywhere = {invariant.name for invariant in sound()}
    assert set(listed("In every pool")) == everywhere
    stricter = {"data kept", "belief holds"}
    of_upgrades = {invariant.name for invariant in rolling_upgrade()}
    assert set(listed("While a pool is upgraded")) == of_upgrades - everywhere - stricter


def test_an_invariant_says_what_must_hold() -> None:
    """In one sentence each, which the control path tells too."""
    for invariant in (*sound(), *rolling_upgrade()):
        said = invariant.described()
        assert said["invariant"] == invariant.name
        assert said["holds"].endswith(".")
        assert "\n" not in said["holds"]


def test_the_samples_run() -> None:
    """Nothing is broken by what the first does; the second is an invariant that can be watched."""
    space: dict[str, object] = {}
    exec(compile(CODE[0], "docs/invariants.md", "exec"), space)  # noqa: S102 - it is our own
    assert isinstance(space["pool"], MockPool)
    assert space["pool"].violations == []
    exec(compile(CODE[1], "docs/invariants.md", "exec"), space)  # noqa: S102
    nothing_renamed = space["NothingRenamed"]
    assert isinstance(nothing_renamed, type)
    watching = nothing_renamed()
    assert isinstance(watching, Invariant)
    pool = MockPool.create(hosts=1, vms=1, release="8.2")
    pool.watch(watching)
    (vm,) = (row for row in pool.store.table("VM").values() if row["name_label"] == "vm01")
    pool.store.write(vm, name_label="other")
    pool.settle("a rename")
    assert [violation.text for violation in pool.violations] == ["vm01 became other"]
