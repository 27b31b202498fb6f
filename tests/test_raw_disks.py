"""Disks that come in chunks, each with its place, or that are made for what comes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from xenctl import xmlrpc

from .test_http_handlers import MIB, ask, disk_of, new_task, outcome

Make = Callable[..., Any]


def chunks(*pieces: tuple[int, bytes]) -> bytes:
    """Pieces of a disk, each with its place, and the end."""
    return b"".join(struct.pack("<QI", at, len(data)) + data for at, data in pieces) + bytes(12)


def test_a_disk_may_come_in_chunks(calls: Make) -> None:
    """Each says where it belongs, in any order; what lies between them stays."""
    c = calls(release="8.2", vms=4)
    vdi = disk_of(c, "vm04")
    disk, task = c.pool.disks[vdi["uuid"]], new_task(c)
    disk.write(5 * MIB, b"kept")
    pieces = (8 * MIB, b"far" * MIB), (0x8B1F, b"near"), (5 * MIB + 1, b"E")
    out, _ = ask(c, "PUT", "/import_raw_vdi", chunks(*pieces), task_id=task, vdi=vdi.ref, chunked="")
    assert (out.status, outcome(c, task)) == (200, ("success", []))
    assert c.pool.store.get("task", task)["result"] == f"<value>{vdi.ref}</value>"
    assert disk.read(0x8B1F, 5) == b"near\0"
    assert disk.read(5 * MIB, 4) == b"kEpt"
    assert disk.read(8 * MIB, 3 * MIB) == b"far" * MIB


@pytest.mark.parametrize("cut", ["no end", "half a chunk", "half a head", "beyond the disk"])
def test_chunks_that_stop_coming_or_lead_too_far_are_refused(calls: Make, cut: str) -> None:
    """As any disk that cannot be written."""
    c = calls(release="8.2", vms=4)
    vdi, task = disk_of(c, "vm04"), new_task(c)
    whole = chunks((0, b"some data"))
    data = {
        "no end": whole[:-12],
        "half a chunk": whole[:15],
        "half a head": whole[:5],
        "beyond the disk": chunks((vdi["virtual_size"] - 2, b"abc")),
    }[cut]
    ask(c, "PUT", "/import_raw_vdi", data, task_id=task, vdi=vdi.ref, chunked="")
    assert outcome(c, task) == ("failure", ["VDI_IO_ERROR", "Device I/O errors"])


@pytest.mark.parametrize("name", ["sr_id", "sr_uuid"])
def test_a_disk_may_be_made_for_what_comes_since_7_1(calls: Make, name: str) -> None:
    """In the storage that is named, as large as what comes; the task's result is the disk."""
    for release in ("7.0", "7.1", "8.2"):
        c = calls(release=release, vms=1)
        task, sr = new_task(c), c.row("SR", "NFS virtual disk storage")
        out, _ = ask(
            c,
            "PUT",
            "/import_raw_vdi",
            b"x" * 2 * MIB,
            task_id=task,
            **{name: sr.ref if name == "sr_id" else sr["uuid"]},
        )
        if release == "7.0":
            assert (out.status, outcome(c, task)) == (400, ("failure", ["VDI_MISSING"]))
            continue
        status, error = outcome(c, task)
        assert (out.status, status, error) == (200, "success", [])
        vdi = c.pool.store.get("VDI", xmlrpc.loads_value(c("task.get_result", task)))
        assert (vdi["name_label"], vdi["virtual_size"], vdi["SR"]) == ("Imported VDI", 2 * MIB, sr.ref)


def test_a_disk_cannot_be_made_for_what_is_no_plain_disk(calls: Make) -> None:
    c = calls(release="8.2", vms=1)
    task, before = new_task(c), set(c("VDI.get_all"))
    more = {"sr_id": c.row("SR", "NFS virtual disk storage").ref, "format": "vhd"}
    out, _ = ask(c, "PUT", "/import_raw_vdi", b"x", task_id=task, **more)
    assert out.status == 400
    assert outcome(c, task) == ("failure", ["INTERNAL_ERROR", "Not enough info supplied to import"])
    assert set(c("VDI.get_all")) == before
