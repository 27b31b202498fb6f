"""Repositories and updates."""

from __future__ import annotations

from typing import Any

from mockserver.machine.update_repositories import Update

PACKAGE = (
    b'<update uuid="11111111-2222-4333-8444-555555555555" name-label="new" version="1.0" after-apply-guidance="restartHost">'
    b"<name-description>An update</name-description></update>"
)
ELSEWHERE = {
    "Repository.apply_livepatch",  # members' toolstacks alone may call it
    "host.apply_updates",  # needs the digest of what was synced
}
HINTS: dict[str, list[Any]] = {
    "binary_url": ["https://updates/9"],
    "source_url": ["https://updates/9/source"],
    "gpgkey_path": [""],
    "Repository.set_gpgkey_path.value": ["KEY-1"],
}
PREPARED: dict[str, tuple[str, ...]] = {
    "pool.remove_repository": ("pool.add_repository",),
    "pool.set_update_sync_enabled": ("pool.add_repository",),
    "pool.sync_updates": ("pool.add_repository",),
}


def furnish(world: Any) -> None:
    """A repository that is not used yet, an update's package, a host that was told what it no longer has and that has
    something to do."""
    pool, store, host = world.pool, world.pool.store, world.host("host1")
    pool.repositories.add("https://updates/1", Update("u1", ("a-1-1.noarch",), recommended=("RebootHost",)))
    world.add("Repository", name_label="r", binary_url="https://updates/1", update=True)
    store.write(host, software_version={**host["software_version"], "pack": "gone"})
    store.write(host, pending_guidances=["restart_toolstack"])
    package = world.add("VDI", SR=world.call.row("SR", "NFS virtual disk storage").ref, managed=True)
    pool.add_disk(store.get("VDI", package)["uuid"]).write(0, PACKAGE)
