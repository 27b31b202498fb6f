"""What storage itself knows, whether or not the database tells of it: how large it is, and the disks that were forgotten.

The content of all disks is in `MockPool.disks`. What a database row says of a disk, storage knows too; so a record is kept
here only of what no row tells any more, for whoever introduces the storage again and scans it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..journal import Kept
from .ha import StateFile


@dataclass
class Storage(Kept):
    """By the uuid of a storage repository: its size in bytes, and the fields of its forgotten disks by their uuids."""

    sizes: dict[str, int] = field(default_factory=dict)
    forgotten: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    destroyed: set[str] = field(default_factory=set)
    """Storage repositories whose content was destroyed: nobody can attach them again."""
    replicas: set[str] = field(default_factory=set)
    """The uuids of disks that hold the pool's database as it is."""
    statefiles: dict[str, StateFile] = field(default_factory=dict)
    """What is on the disks by which hosts see each other live, by the disks' uuids."""

    def forget(self, sr: str, vdi: str, fields: dict[str, Any]) -> None:
        """Remember a disk whose row goes."""
        if sr not in self.forgotten:
            self.forgotten[sr] = {}
        self.forgotten[sr][vdi] = fields

    def destroy(self, sr: str) -> None:
        """Wipe a storage repository."""
        self.sizes.pop(sr, None)
        self.forgotten.pop(sr, None)
        self.destroyed.add(sr)
