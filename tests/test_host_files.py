"""What hosts keep in files: certificates for guests' firmware, and binary objects."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from mockserver import firmware, trust

from .test_http_handlers import ask

Make = Callable[..., Any]


def looked_at(c: Any, host: str) -> dict[str, bytes]:
    """What the firmware of guests finds on a host."""
    files = c.pool.machine(host).system.files
    return {name: files[firmware.FOLDER + name] for name in trust.names(c.pool.machine(host).system, firmware.FOLDER)}


def test_a_pool_that_may_has_certificates_of_its_own_on_every_host(calls: Make) -> None:
    """In the place of those that systems come with, which the fields tell; "" brings these back."""
    c = calls(release="XCP-ng 8.3", hosts=2)
    pool, value = c.pool.store.pool(), firmware.archive({"etc/db.auth": b"mine", "PK.auth": b"too"})
    c("pool.set_custom_uefi_certificates", pool.ref, value)
    assert looked_at(c, "host1") == looked_at(c, "host2") == {"db.auth": b"mine", "PK.auth": b"too"}
    assert pool["custom_uefi_certificates"] == value
    told = {c("host.get_uefi_certificates", host) for host in c("host.get_all")} | {pool["uefi_certificates"]}
    (of_systems,) = map(firmware.unpacked, told)
    assert set(of_systems) == set(firmware.NAMES)
    c("pool.set_custom_uefi_certificates", pool.ref, "")
    assert looked_at(c, "host1") == of_systems


def test_what_is_no_archive(calls: Make) -> None:
    """Text that is no base64 is taken for nothing; what is no tar is an error."""
    c = calls(release="XCP-ng 8.3")
    pool = c.pool.store.pool().ref
    c("pool.set_custom_uefi_certificates", pool, "*")
    assert looked_at(c, "host1") == {}
    assert (
        c.refused("pool.set_custom_uefi_certificates", pool, base64.b64encode(b"x" * 600).decode())[0]
        == "INTERNAL_ERROR"
    )


def test_a_host_that_was_away_writes_them_when_it_starts(calls: Make) -> None:
    c = calls(release="XCP-ng 8.3", hosts=2)
    pool, host = c.pool.store.pool().ref, c.host("host2").ref
    c.halt("host2")
    refused = c.refused("pool.set_custom_uefi_certificates", pool, firmware.archive({"db.auth": b"mine"}))
    assert refused == ["HOST_OFFLINE", host]
    c.pool.hands.power_on("host2")
    c = c.back()
    assert looked_at(c, "host2") == {"db.auth": b"mine"}


def test_a_toolstack_may_have_them_written(calls: Make) -> None:
    """For one host."""
    c = calls(release="8.4", hosts=2)
    host = c.host("host2").ref
    session = c.pool.dispatch("session.slave_login", [host, c.pool.master.system.pool_secret])
    c.pool.dispatch("host.write_uefi_certificates_to_disk", [session, host])
    assert set(looked_at(c, "host2")) == set(firmware.NAMES) and looked_at(c, "host1") == {}


def test_others_may_not(calls: Make) -> None:
    """The hosts of XenServer do not allow it, and the old messages are of no use any more."""
    c = calls(release="8.4")
    pool, host = c.pool.store.pool().ref, c.host("host1").ref
    for args, text in (
        (
            ("pool.set_custom_uefi_certificates", pool, ""),
            "Setting UEFI certificates is not possible when allow_custom_uefi_certs is false",
        ),
        (
            ("pool.set_uefi_certificates", pool, ""),
            "Setting UEFI certificates is deprecated, please use `set_custom_uefi_certificates`",
        ),
        (("host.set_uefi_certificates", host, ""), "To set UEFI certificates use: `Pool.set_custom_uefi_certificates`"),
    ):
        assert c.refused(*args) == ["OPERATION_NOT_ALLOWED", text]


def test_before_8_3_those_of_a_host_are_the_pools(calls: Make) -> None:
    """Unless they are taken away from it."""
    c = calls(release="8.2")
    pool, host = c.pool.store.pool(), c.host("host1")
    c("host.set_uefi_certificates", host.ref, "text")
    assert (host["uefi_certificates"], pool["uefi_certificates"]) == ("text", "text")
    c("host.set_uefi_certificates", host.ref, "")
    assert (host["uefi_certificates"], pool["uefi_certificates"]) == ("", "text")


@pytest.mark.parametrize("release", ["5.6", "8.4"])
def test_without_binary_storage_a_pool_forgets_what_is_in_it(calls: Make, release: str) -> None:
    """What blobs hold, and messages; their rows stay. Each host says that it keeps nothing."""
    c = calls(release=release, hosts=2)
    blob = c("blob.create", "text/plain") if release == "5.6" else c("blob.create", "text/plain", False)
    c.pool.blobs[c("blob.get_uuid", blob)] = b"data"
    c("message.create", "X", 1, "Pool", c.pool.store.pool()["uuid"], "")
    c("pool.disable_binary_storage")
    assert (c.pool.blobs, c("message.get_all"), c("blob.get_all")) == ({}, [], [blob])
    assert {c("host.get_other_config", host)["no_local_storage"] for host in c("host.get_all")} == {"true"}
    assert ask(c, "PUT", "/blob", b"data", ref=blob)[0].status == 404
    c("pool.enable_binary_storage")
    assert ask(c, "PUT", "/blob", b"data", ref=blob)[0].status == 200 and len(c.pool.blobs) == 1
    assert not any("no_local_storage" in c("host.get_other_config", host) for host in c("host.get_all"))


def test_binary_storage_of_the_hosts_that_answer(calls: Make) -> None:
    """Whoever is away is the error, and the others have done it."""
    c = calls(release="8.4", hosts=3)
    host = c.host("host2").ref
    c.halt("host2")
    assert c.refused("pool.disable_binary_storage") == ["HOST_OFFLINE", host]
    told = [
        c("host.get_other_config", c.host(name).ref).get("no_local_storage") for name in ("host1", "host2", "host3")
    ]
    assert told == ["true", None, "true"]
