"""What machines know of high availability without asking the pool's database: local settings, and the state file.

The state file is on shared storage, so every host that reaches it sees the same: whether it still counts, which hosts live,
which one may be master, and which left on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..journal import Kept


@dataclass(frozen=True)
class Settings:
    """What is kept on a host's disk: the uuid of the disk that is the state file, the seconds after which a silent host is
    taken for dead, whether the daemon starts with each boot, and whether the host may become master by itself."""

    statefile: str
    timeout: float
    armed: bool = False
    decides: bool = True


@dataclass
class StateFile(Kept):
    """What is written on a state file; hosts are named by the uuids of their machines. A `poisoned` one tells every host to
    lay down its arms."""

    members: set[str] = field(default_factory=set)
    excluded: set[str] = field(default_factory=set)
    master: str = ""
    poisoned: bool = False
