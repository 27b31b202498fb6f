"""The pool on sockets with TLS: each host has a certificate, and the authority that made them is in a file."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import XenAPI

from mockserver import MockPool, PoolServer
from xenctl import xmlrpc
from xenctl.errors import ConnectError
from xenctl.session import connect

ASK = {"x-xenapi-request-host-certificate-thumbprint": "sha-256:master"}
TELL = "x-xenapi-response-host-certificate-thumbprint"


@pytest.fixture
def server() -> Iterator[PoolServer]:
    """Two hosts with TLS."""
    with PoolServer(MockPool.create(hosts=2, vms=2, release="8.2"), tls=True) as made:
        yield made


def test_every_host_is_reached_with_the_authoritys_file(server: PoolServer) -> None:
    """The certificate is for the host's address, so that the redirect to the master leads to a host that can be trusted."""
    member = server.url_of(server.pool.machines[1])
    assert member.startswith("https://")
    with connect(member, "root", "secret", verify=server.cafile) as session:
        assert session.origin == server.url
        assert session.VM.get_all()


def test_others_do_not_trust_it(server: PoolServer) -> None:
    """Without the file a client refuses; the server goes on."""
    with pytest.raises(ConnectError, match="certificate"):
        connect(server.url, "root", "secret")
    assert requests.get(server.url, verify=server.cafile, timeout=10).status_code == 403


def test_the_official_sdk(server: PoolServer) -> None:
    """It is told to look away, and works."""
    session = XenAPI.Session(server.url, ignore_ssl=True)
    session.xenapi.login_with_password("root", "secret")
    assert session.xenapi.VM.get_all()
    session.xenapi.session.logout()
    session("close")()


def test_the_file_is_there_while_it_serves() -> None:
    """And gone afterwards; without TLS there is none."""
    with PoolServer(MockPool.create(hosts=1, vms=0), tls=True) as server:
        path = server.cafile
        assert os.path.exists(path)
    assert not os.path.exists(path)
    with PoolServer(MockPool.create(hosts=1, vms=0)) as plain:
        assert plain.cafile == ""
        assert plain.pool.fingerprints == {}


def shown(url: str) -> str:
    """The fingerprint of the certificate that a host shows."""
    place = urlsplit(url)
    pem = ssl.get_server_certificate((place.hostname or "", place.port or 443))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.mark.parametrize("kind", ["sha-256", "sha-1"])
def test_a_member_tells_the_masters_fingerprint(server: PoolServer, kind: str) -> None:
    """To whoever asks for it, with the refusal that names the master."""
    member = server.url_of(server.pool.machines[1])
    body = xmlrpc.dumps_call("session.login_with_password", ("root", "secret"))
    asked = {next(iter(ASK)): f"{kind}:master"}
    answer = requests.post(member, body, headers=asked, verify=server.cafile, timeout=10)
    assert b"HOST_IS_SLAVE" in answer.content
    told = answer.headers[TELL]
    assert told == told.upper()
    assert len(told.split(":")) == {"sha-256": 32, "sha-1": 20}[kind]
    if kind == "sha-256":
        assert told.replace(":", "").lower() == shown(server.url) != shown(member)
    assert TELL not in requests.post(member, body, verify=server.cafile, timeout=10).headers
    assert TELL not in requests.post(server.url, body, headers=asked, verify=server.cafile, timeout=10).headers


def test_a_handler_leads_to_another_host_by_tls_too(server: PoolServer) -> None:
    """A disk that only a member's storage holds: the master names the member's own URL."""
    store = server.pool.store
    member = next(row for row in store.table("host").values() if row["name_label"] == "host2")
    storage = next(store.get("PBD", ref)["SR"] for ref in member["PBDs"] if not _shared(store, ref))
    with connect(server.url, "root", "secret", verify=server.cafile) as session:
        fields = {"SR": storage, "virtual_size": 2**22, "type": "user", "sharable": False, "read_only": False}
        vdi = session.VDI.create({"name_label": "disk", "other_config": {}, **fields})
        query = {"session_id": session.ref, "vdi": vdi, "format": "raw"}
        url = f"{server.url}/export_raw_vdi"
        there = requests.get(url, params=query, verify=server.cafile, timeout=10, allow_redirects=False)
        assert there.status_code == 302
        assert there.headers["location"].startswith(f"{server.url_of(server.pool.machine('host2'))}/export_raw_vdi?")
        assert requests.get(url, params=query, verify=server.cafile, timeout=10).content == bytes(2**22)


def _shared(store: Any, pbd: str) -> bool:
    return bool(store.get("SR", store.get("PBD", pbd)["SR"])["shared"])


def test_a_client_that_never_shakes_hands_holds_up_nobody(server: PoolServer) -> None:
    """Nor does one that says something else."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as silent:
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as odd:
            odd.sendall(b"POST / HTTP/1.1\r\n\r\n")
            started = time.monotonic()
            with connect(server.url, "root", "secret", verify=server.cafile) as session:
                assert session.VM.get_all()
            assert time.monotonic() - started < 5
        silent.close()


def test_a_host_that_is_switched_off_hangs_up(server: PoolServer) -> None:
    """Connections end, and new ones are refused; it comes back with the same certificate."""
    pool = server.pool
    before = shown(server.url_of(pool.machines[1]))
    pool.hands.power_off("host2")
    with pytest.raises(ConnectError):
        connect(server.url_of(pool.machines[1]), "root", "secret", verify=server.cafile)
    pool.hands.power_on("host2")
    deadline = time.monotonic() + 20
    while pool.machines[1].state != "running" and time.monotonic() < deadline:
        requests.get(server.url, verify=server.cafile, timeout=10)
    assert shown(server.url_of(pool.machines[1])) == before


def test_the_command_names_the_file() -> None:
    """With `--tls` the ready line has it, and it goes when the command ends."""
    command = [sys.executable, "-m", "mockserver", "--tls", "--hosts", "1", "--vms", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with connect(ready["url"], "root", "secret", verify=ready["cafile"]) as session:
            assert session.pool.get_all()
        process.terminate()
        assert process.wait(10) == 0
    assert not os.path.exists(ready["cafile"])


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cryptography` is an extra."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ImportError, match=r"install xenctl\[server\]"):
        PoolServer(MockPool.create(hosts=1, vms=0), tls=True)
