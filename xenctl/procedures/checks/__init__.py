"""What is checked before a rolling upgrade. Each check is data, and so is what it finds.

finding.py       `Check` and `Finding`
survey.py        what checks look at; `Situation`: a pool, and what is to become of it
releases.py pools.py hosts.py hotfixes.py guests.py surroundings.py
                 the checks, by what they look at, each module with its table
growth.py keys.py  how much memory control domains take later; how strong the keys of certificates are

What the installer would refuse, or would end a run half way, blocks; what the vendor does not support, and what is to be
known beforehand, warns. `acts/mending.py` has the steps that mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..plan import Step
from . import guests, hosts, hotfixes, pools, releases, surroundings
from .finding import BLOCKS, WARNS, Check, Finding, Found
from .survey import Situation, Survey, surveyed


def _nothing(at: Situation) -> Iterator[Found]:
    """The planner finds these, when it plays the upgrade through."""
    return iter(())


PLANNED = (
    Check(
        *("capacity", BLOCKS, "whether guests have a place at every step of the whole sequence"),
        *("free memory: shut down or suspend the guests that the plan names", _nothing),
    ),
    Check(
        *("homecoming", WARNS, "guests and CDs that cannot come back to where they were"),
        *("connect the host to what the guest or the CD needs, or move the guest by hand afterwards", _nothing),
    ),
)
"""What only the planner can find."""
CHECKS = (
    *(*releases.CHECKS, *pools.CHECKS, *hosts.CHECKS, *hotfixes.CHECKS, *guests.CHECKS, *surroundings.CHECKS),
    *PLANNED,
)
"""Every check, in the order in which findings are told."""


def find(at: Situation) -> tuple[Finding, ...]:
    """All that the checks find, in their order."""
    return tuple(finding for check in CHECKS for finding in check.findings(at))


def refused(at: Situation, name: str, why: str) -> Finding:
    """What somebody else found, the planner mostly, as a finding of the check called `name`."""
    check = next(check for check in CHECKS if check.name == name)
    facts = at.facts
    return Finding(check.name, check.level, "pool", facts.uuid, facts.name, why, check.mend)


def with_mending(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, those that steps can mend being mended."""
    return tuple(replace(finding, mended=finding.mendable) for finding in findings)


def mending(findings: Iterable[Finding]) -> tuple[Step, ...]:
    """The steps that mend what is to be mended."""
    return tuple(step for finding in findings if finding.mended for step in finding.steps)


def unmending(findings: Iterable[Finding]) -> tuple[Step, ...]:
    """The steps that take the mending back at the end, last first."""
    return tuple(step for finding in reversed(list(findings)) if finding.mended for step in finding.unmend)


__all__ = [
    "BLOCKS",
    "CHECKS",
    "WARNS",
    "Check",
    "Finding",
    "Situation",
    "Survey",
    "find",
    "mending",
    "refused",
    "surveyed",
    "unmending",
    "with_mending",
]
