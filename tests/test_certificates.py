"""Certificates that hosts trust and show, lists of revoked ones, and whether hosts check whom they connect to."""

from __future__ import annotations

import base64
import gzip
import hashlib
import ssl
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pem
import pytest
from cryptography.hazmat.primitives import hashes

from mockserver import MockPool, PoolServer, trust
from xenctl.errors import Failure
from xenctl.session import connect

from .test_http_handlers import ask

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
OPERATIONS = {"install": "pool.install_ca_certificate", "uninstall": "pool.uninstall_ca_certificate"}


@pytest.fixture
def c(calls: Make) -> Any:
    """Three hosts of the newest release."""
    return calls(release="8.4", hosts=3)


@pytest.fixture
def inner(c: Any) -> Callable[..., Any]:
    """Calls by the session of a toolstack."""
    session = c.pool.dispatch("session.slave_login", [c.host("host1").ref, c.pool.master.system.pool_secret])
    return lambda method, *args: c.pool.dispatch(method, [session, *args])


def files(c: Any, folder: str = trust.CA_FOLDER) -> list[list[str]]:
    """What each host has in a folder."""
    return [trust.names(machine.system, folder) for machine in c.pool.machines]


# --- what hosts trust


def test_a_certificate_of_an_authority_is_on_every_host_and_has_a_row(c: Any) -> None:
    """By its name; the row tells its fingerprint and how long it holds."""
    found = pem.certificate("authority")
    c(OPERATIONS["install"], "a.pem", pem.public(found))
    assert files(c) == [["a.pem"]] * 3
    assert c("pool.certificate_list") == ["a.pem"]
    (ref,) = c("Certificate.get_all")
    row = c("Certificate.get_record", ref)
    assert (row["type"], row["name"], row["host"]) == ("ca", "a.pem", NULL)
    assert row["fingerprint"] == pem.fingerprint(found)
    assert row["not_after"] == f"{found.not_valid_after_utc:%Y%m%dT%H:%M:%SZ}"
    assert row["not_before"] == f"{found.not_valid_before_utc:%Y%m%dT%H:%M:%SZ}"
    bundles = {machine.system.files[trust.BUNDLES[trust.CA_FOLDER]] for machine in c.pool.machines}
    assert bundles == {pem.public(found).encode()}
    c(OPERATIONS["uninstall"], "a.pem")
    assert (files(c), c("Certificate.get_all"), c("pool.certificate_list")) == ([[]] * 3, [], [])
    assert all(trust.BUNDLES[trust.CA_FOLDER] not in machine.system.files for machine in c.pool.machines)


FLAWED = {
    "no PEM": (lambda: "nonsense", ["CA_CERTIFICATE_INVALID"]),
    "two": (lambda: pem.public(pem.certificate()) * 2, ["CA_CERTIFICATE_INVALID"]),
    "damaged": (lambda: pem.public(pem.certificate()).replace("MII", "MIX"), ["CA_CERTIFICATE_INVALID"]),
    "a key": (lambda: pem.private(pem.key()), ["CA_CERTIFICATE_INVALID"]),
    "too early": (lambda: pem.public(pem.certificate(days=(1, 2))), ["CA_CERTIFICATE_NOT_VALID_YET"]),
    "too late": (lambda: pem.public(pem.certificate(days=(-2, -1))), ["CA_CERTIFICATE_EXPIRED"]),
}


@pytest.mark.parametrize("flaw", FLAWED)
def test_one_that_is_none_or_does_not_hold_is_refused(c: Any, flaw: str) -> None:
    """And nothing is written; of one that does not hold, the error tells when now is and when it does."""
    text, error = FLAWED[flaw]
    refused = c.refused(OPERATIONS["install"], "a.pem", text())
    assert refused[0] == error[0] and len(refused) == (1 if flaw[:3] != "too" else 3)
    assert all(len(moment) == len("2026-01-01T00:00:00Z") and moment[-1] == "Z" for moment in refused[1:])
    assert (files(c), c("Certificate.get_all")) == ([[]] * 3, [])


@pytest.mark.parametrize("name", [".a.pem", "a.crt", "a/b.pem", "ä.pem", "a b.pem"])
def test_names_are_plain_and_end_as_they_must(c: Any, name: str) -> None:
    text = pem.public(pem.certificate())
    assert c.refused(OPERATIONS["install"], name, text) == ["CERTIFICATE_NAME_INVALID", name]
    assert c.refused(OPERATIONS["uninstall"], name) == ["CERTIFICATE_NAME_INVALID", name]
    assert c.refused("pool.crl_install", name, text) == ["CRL_NAME_INVALID", name]
    assert c.refused("pool.crl_uninstall", name) == ["CRL_NAME_INVALID", name]


def test_a_name_is_taken_once_and_removed_once(c: Any) -> None:
    """The old names of the messages do the same."""
    text = pem.public(pem.certificate())
    c("pool.certificate_install", "a.pem", text)
    assert c.refused(OPERATIONS["install"], "a.pem", text) == ["CERTIFICATE_ALREADY_EXISTS", "a.pem"]
    c("pool.certificate_uninstall", "a.pem")
    assert c.refused(OPERATIONS["uninstall"], "a.pem") == ["CERTIFICATE_DOES_NOT_EXIST", "a.pem"]
    assert c.refused(OPERATIONS["install"], "", text) == ["INTERNAL_ERROR", 'Invalid_argument("index out of bounds")']


def test_where_a_host_is_away_no_host_has_it(c: Any) -> None:
    """The master forgets it again."""
    host = c.host("host2").ref
    c.halt("host2")
    assert c.refused(OPERATIONS["install"], "a.pem", pem.public(pem.certificate())) == ["HOST_OFFLINE", host]
    assert c.refused("pool.crl_install", "r.pem", "anything") == ["HOST_OFFLINE", host]
    assert (files(c), files(c, trust.CRL_FOLDER), c("Certificate.get_all")) == ([[]] * 3, [[]] * 3, [])


def test_members_follow_the_master(c: Any, inner: Callable[..., Any]) -> None:
    """What only one of them has goes, what it lacks comes."""
    host = c.host("host2").ref
    c(OPERATIONS["install"], "a.pem", pem.public(pem.certificate()))
    inner("host.install_ca_certificate", host, "b.pem", "anything")
    inner("host.crl_install", host, "r.pem", "anything")
    inner("host.uninstall_ca_certificate", host, "a.pem")
    assert inner("host.certificate_list", host) == ["b.pem"] and inner("host.crl_list", host) == ["r.pem"]
    c("pool.certificate_sync")
    assert inner("host.certificate_list", host) == ["a.pem"] and inner("host.crl_list", host) == []
    inner("host.crl_install", host, "r.pem", "anything")
    inner("host.crl_uninstall", host, "r.pem")
    assert inner("host.crl_list", host) == []
    inner("host.certificate_sync", host)
    assert c.refused("host.certificate_list", host)[0] == "INTERNAL_ERROR"


def test_revoked_certificates_are_not_looked_into(c: Any) -> None:
    """The files are what counts, and no row tells of them."""
    c("pool.crl_install", "r.pem", "anything")
    assert (c("pool.crl_list"), files(c, trust.CRL_FOLDER), c("Certificate.get_all")) == (
        ["r.pem"],
        [["r.pem"]] * 3,
        [],
    )
    assert c.refused("pool.crl_install", "r.pem", "other") == ["CRL_ALREADY_EXISTS", "r.pem"]
    c("pool.crl_uninstall", "r.pem")
    assert c.refused("pool.crl_uninstall", "r.pem") == ["CRL_DOES_NOT_EXIST", "r.pem"]


@pytest.mark.parametrize("release", ["5.6", "8.2"])
def test_older_releases_keep_files_alone(calls: Make, release: str) -> None:
    """Nobody looks at what is in them, and the list is that of the master's files."""
    c = calls(release=release, hosts=2)
    c("pool.certificate_install", "a.pem", "nonsense")
    assert (c("pool.certificate_list"), files(c)) == (["a.pem"], [["a.pem"]] * 2)
    c("pool.certificate_uninstall", "a.pem")
    assert (c("pool.certificate_list"), files(c)) == ([], [[]] * 2)


# --- what hosts show


def shown(c: Any, host: str = "host1") -> Any:
    """The only row of a host's certificate for its port."""
    ref = c.host(host).ref
    (row,) = (row for row in c.pool.store.table("Certificate").values() if row["host"] == ref)
    return row


def install(c: Any, certificate: str, key: str, chain: str = "", host: str = "host1") -> Any:
    return c("host.install_server_certificate", c.host(host).ref, certificate, key, chain)


@pytest.mark.parametrize("release", ["8.2", "8.4"])
def test_an_installed_certificate_takes_the_place_of_the_one_before(calls: Make, release: str) -> None:
    """`get_server_certificate`, the file and the row agree; key and chain are in the file."""
    c = calls(release=release)
    host, chain = c.host("host1").ref, pem.public(pem.certificate("authority"))
    first = c("host.get_server_certificate", host)
    assert first == c("host.get_server_certificate", host) and shown(c)["fingerprint"]
    before, found = shown(c).ref, pem.certificate("mine")
    install(c, pem.public(found), pem.private(pem.key(), "pkcs1"), chain)
    assert c("host.get_server_certificate", host) == pem.public(found).strip() != first
    assert (shown(c)["fingerprint"], shown(c).ref != before) == (pem.fingerprint(found), True)
    file = c.pool.master.system.files[trust.SERVER].decode()
    assert file == pem.private(pem.key()) + pem.public(found) + chain
    if release == "8.4":
        c("host.reset_server_certificate", host)
    else:
        c("host.emergency_reset_server_certificate")
    assert c("host.get_server_certificate", host) not in (first, pem.public(found).strip())


def multi_prime() -> str:
    """A key whose version says that it has more than two primes."""
    lines = pem.private(pem.key(), "pkcs1").splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[6] = 1  # after the heads of the sequence and of the version, which was 0
    return f"{lines[0]}\n{base64.b64encode(der).decode()}\n{lines[-1]}\n"


GOOD = (lambda: pem.public(pem.certificate()), lambda: pem.private(pem.key()), "")
BAD: dict[str, tuple[Any, Any, Any, list[str]]] = {
    "key of no kind": (GOOD[0], lambda: "nonsense", "", ["KEY_INVALID"]),
    "key cut short": (
        GOOD[0],
        lambda: pem.private(pem.key())[:400] + "\n-----END PRIVATE KEY-----",
        "",
        ["KEY_INVALID"],
    ),
    "key of three primes": (GOOD[0], multi_prime, "", ["KEY_RSA_MULTI_NOT_SUPPORTED"]),
    "elliptic key": (GOOD[0], lambda: pem.private(pem.key("ec")), "", ["KEY_ALGORITHM_NOT_SUPPORTED", "p256"]),
    "edwards key": (GOOD[0], lambda: pem.private(pem.key("ed")), "", ["KEY_ALGORITHM_NOT_SUPPORTED", "ed25519"]),
    "short key": (GOOD[0], lambda: pem.private(pem.key(size=1024)), "", ["KEY_RSA_LENGTH_NOT_SUPPORTED", "1024"]),
    "no certificate": (lambda: "nonsense", GOOD[1], "", ["INVALID"]),
    "key before certificate": (lambda: "nonsense", lambda: "nonsense", "", ["KEY_INVALID"]),
    "other key": (GOOD[0], lambda: pem.private(pem.other_key()), "", ["KEY_MISMATCH"]),
    "weak signature": (
        lambda: pem.public(pem.certificate(digest=hashes.SHA384())),
        GOOD[1],
        "",
        ["SIGNATURE_NOT_SUPPORTED"],
    ),
    "chain of nothing": (*GOOD[:2], "nonsense", ["CHAIN_INVALID"]),
}


@pytest.mark.parametrize("flaw", BAD)
def test_what_a_host_may_not_show_is_refused(c: Any, flaw: str) -> None:
    """In the order key, certificate, both together, signature, chain; what the host showed stays."""
    certificate, key, chain, (code, *params) = BAD[flaw]
    host = c.host("host1").ref
    before = c("host.get_server_certificate", host)
    refused = c.refused("host.install_server_certificate", host, certificate(), key(), chain)
    assert refused == [f"SERVER_CERTIFICATE_{code}", *params]
    assert c("host.get_server_certificate", host) == before


@pytest.mark.parametrize(("days", "code"), [((1, 2), "NOT_VALID_YET"), ((-2, -1), "EXPIRED")])
def test_one_that_does_not_hold_now_is_refused_before_its_key_is_compared(c: Any, days: Any, code: str) -> None:
    args = (c.host("host1").ref, pem.public(pem.certificate(days=days)), pem.private(pem.other_key()), "")
    assert c.refused("host.install_server_certificate", *args)[0] == f"SERVER_CERTIFICATE_{code}"


def test_while_the_pool_is_highly_available_it_stays(c: Any) -> None:
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    args = (c.host("host1").ref, "nonsense", "nonsense", "")
    assert c.refused("host.install_server_certificate", *args) == ["HA_IS_ENABLED"]


def test_operators_are_told_of_one_that_will_not_hold_for_long(c: Any) -> None:
    """By one message a host, which a later one takes the place of."""

    def told() -> list[tuple[str, int]]:
        return [(row["name"], row["priority"]) for row in c("message.get_all_records").values()]

    install(c, pem.public(pem.certificate(days=(-1, 31))), pem.private(pem.key()))
    assert told() == []
    install(c, pem.public(pem.certificate(days=(-1, 20))), pem.private(pem.key()))
    assert told() == [("HOST_SERVER_CERTIFICATE_EXPIRING_30", 3)]
    install(c, pem.public(pem.certificate(days=(-1, 2))), pem.private(pem.key()))
    assert told() == [("HOST_SERVER_CERTIFICATE_EXPIRING_07", 1)]


def test_in_an_emergency_a_host_makes_a_new_one_without_its_master(c: Any) -> None:
    """Its row is right again once the toolstack starts anew."""
    machine, host = c.pool.machine("host2"), c.host("host2").ref
    first = c("host.get_server_certificate", host)
    before = shown(c, "host2")["fingerprint"]
    session = c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], machine)
    c.pool.dispatch("host.emergency_reset_server_certificate", [session], machine)
    assert c("host.get_server_certificate", host) != first and shown(c, "host2")["fingerprint"] == before
    c("host.restart_agent", host)
    c.until(lambda: shown(c, "host2")["fingerprint"] != before)


def test_a_backup_of_a_host_keeps_what_it_showed(calls: Make) -> None:
    """An upgrade does too, and then there is a row, where the new release has such rows."""
    c = calls(release="8.1", hosts=1)
    first = c("host.get_server_certificate", c.host("host1").ref)
    c("pool.certificate_install", "a.pem", "anything")
    c = c.upgrade("host1", "8.2")
    assert c("host.get_server_certificate", c.host("host1").ref) == first
    assert (c("pool.certificate_list"), bool(shown(c)["fingerprint"])) == (["a.pem"], True)
    assert c.pool.master.backup.files[trust.SERVER] == c.pool.master.system.files[trust.SERVER]


def test_a_restored_host_has_what_it_had(c: Any) -> None:
    """As far as it is in the backup: what came later is gone."""
    host, machine = c.host("host1").ref, c.pool.machine("host1")
    first = c("host.get_server_certificate", host)
    c(OPERATIONS["install"], "a.pem", pem.public(pem.certificate()))
    before = dict(machine.system.files)
    _, backup = ask(c, "GET", "/host_backup")
    c("host.reset_server_certificate", host)
    ask(c, "PUT", "/host_restore", gzip.decompress(backup))
    assert machine.backup is not None and machine.backup.files == before
    assert trust.public(machine.backup, trust.SERVER) == first


def test_a_dump_tells_whom_hosts_trust(c: Any) -> None:
    """By name; and that hosts check whom they connect to."""
    c(OPERATIONS["install"], "a.pem", pem.public(pem.certificate()))
    c("pool.enable_tls_verification")
    loaded = type(c)(MockPool.from_dump(c.pool.store.dump()))
    assert (loaded("pool.certificate_list"), files(loaded)) == (["a.pem"], [["a.pem"]] * 3)
    assert all(trust.VERIFIES in machine.system.files for machine in loaded.pool.machines)
    loaded(OPERATIONS["uninstall"], "a.pem")
    assert files(loaded) == [[]] * 3


def test_without_the_library_it_says_what_to_install(c: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where certificates are read or made; lists of files do without."""
    text = pem.public(pem.certificate())
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for args in (
        (OPERATIONS["install"], "a.pem", text),
        ("host.get_server_certificate", c.host("host1").ref),
        ("host.install_server_certificate", c.host("host1").ref, text, text, ""),
    ):
        code, why = c.refused(*args)
        assert code == "NOT_IMPLEMENTED" and "install xenctl[server]" in why
    assert files(c) == [[]] * 3
    c("pool.crl_install", "r.pem", "anything")


# --- whether hosts check whom they connect to


def test_hosts_check_each_other_once_all_have_each_others_certificates(c: Any) -> None:
    """The internal ones, which have rows of their own."""
    c("pool.enable_tls_verification")
    pool = c.pool.store.pool()
    assert (pool["tls_verification_enabled"], pool["wlb_verify_cert"], pool["current_operations"]) == (True, True, {})
    uuids = sorted(f"{row['uuid']}.pem" for row in c.pool.store.table("host").values())
    assert files(c, trust.POOL_FOLDER) == [uuids] * 3
    assert all(trust.VERIFIES in machine.system.files for machine in c.pool.machines)
    assert {row["type"] for row in c.pool.store.table("Certificate").values()} == {"host_internal"}
    assert {c("host.get_tls_verification_enabled", host) for host in c("host.get_all")} == {True}


def test_what_keeps_a_pool_from_checking(c: Any) -> None:
    """High availability, mixed versions, a secret that is being rotated, a host that is away."""
    store, pool = c.pool.store, c.pool.store.pool()
    for field, value, error in (
        ("ha_enabled", True, ["HA_IS_ENABLED"]),
        ("other_config", {"rolling_upgrade_in_progress": "true"}, ["NOT_SUPPORTED_DURING_UPGRADE"]),
        ("is_psr_pending", True, ["POOL_SECRET_ROTATION_PENDING"]),
        ("current_operations", {"t": "ha_enable"}, ["HA_ENABLE_IN_PROGRESS"]),
        ("current_operations", {"t": "eject"}, ["OTHER_OPERATION_IN_PROGRESS", "pool", pool.ref]),
    ):
        before = pool[field]
        store.write(pool, **{field: value})
        assert c.refused("pool.enable_tls_verification") == error
        store.write(pool, **{field: before})
    host = c.host("host3").ref
    c.halt("host3")
    assert c.refused("pool.enable_tls_verification") == ["HOST_OFFLINE", host]
    assert files(c, trust.POOL_FOLDER) == [[]] * 3 and not pool["tls_verification_enabled"]


def test_in_an_emergency_a_host_stops_checking_and_begins_again(c: Any) -> None:
    """Where no master can be told, the host does it all the same, and says so."""
    machine, host = c.pool.machine("host2"), c.host("host2")

    def ask(what: str) -> Any:
        session = c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], machine)
        return c.pool.dispatch(f"host.emergency_{what}able_tls_verification", [session], machine)

    with pytest.raises(Failure, match="TLS_VERIFICATION_NOT_ENABLED_IN_POOL"):
        ask("reen")
    c("pool.enable_tls_verification")
    ask("dis")
    assert (host["tls_verification_enabled"], trust.VERIFIES in machine.system.files) == (False, False)
    ask("reen")
    assert (host["tls_verification_enabled"], trust.VERIFIES in machine.system.files) == (True, True)
    c.pool.hands.power_off("host1")
    with pytest.raises(Failure, match="Failed to contact the coordinator"):
        ask("dis")
    assert trust.VERIFIES not in machine.system.files


def test_a_refreshed_certificate_is_known_before_it_is_shown(c: Any) -> None:
    """For a while the others have both."""
    c("pool.enable_tls_verification")
    host, system = c.host("host2"), c.pool.machine("host3").system
    old = system.files[f"{trust.POOL_FOLDER}{host['uuid']}.pem"]
    row = shown(c, "host2").ref
    task = c.start("host.refresh_server_certificate", host.ref)
    new = system.files[f"{trust.POOL_FOLDER}{host['uuid']}.new.pem"]
    assert system.files[f"{trust.POOL_FOLDER}{host['uuid']}.pem"] == old != new
    assert c.refused_at_once("pool.enable_tls_verification") == [
        "OTHER_OPERATION_IN_PROGRESS",
        "pool",
        c.pool.store.pool().ref,
    ]
    c.until(lambda: task["status"] != "pending")
    assert task["status"] == "success" and shown(c, "host2").ref != row
    assert system.files[f"{trust.POOL_FOLDER}{host['uuid']}.pem"] == new
    assert new in c.pool.machine("host2").system.files[trust.INTERNAL]
    c.halt("host3")
    assert c.refused("host.refresh_server_certificate", host.ref) == ["CANNOT_CONTACT_HOST", c.host("host3").ref]


def test_a_host_gets_what_the_master_trusts(c: Any, inner: Callable[..., Any]) -> None:
    """When it is told to, and by itself when it was away."""
    host = c.host("host2")
    c("pool.enable_tls_verification")
    c(OPERATIONS["install"], "a.pem", pem.public(pem.certificate()))
    trust.clear(c.pool.machine("host2").system, trust.POOL_FOLDER)
    inner("host.install_ca_certificate", host.ref, "b.pem", "anything")
    trust.change(c.pool.master.system, {f"{trust.POOL_FOLDER}{host['uuid']}.new.pem": b"still given out"})
    inner("host.copy_primary_host_certs", host.ref)
    assert (len({tuple(names) for names in files(c)}), len(files(c, trust.POOL_FOLDER)[1])) == (1, 3)
    trust.clear(c.pool.machine("host2").system, trust.CA_FOLDER)
    c("host.restart_agent", host.ref)
    c.until(lambda: files(c)[1] == ["a.pem"])


def test_hosts_are_told_what_to_write_in_the_language_of_xapi(c: Any, inner: Callable[..., Any]) -> None:
    """One command after another; what is none is an error."""
    host, uuid = c.host("host2").ref, c.host("host2")["uuid"]

    def told(command: str) -> str:
        return str(inner("host.cert_distrib_atom", host, command))

    own = told(f"(CollectOne HostPoolCertificate {uuid})")
    assert own.startswith(f'(CollectOneResult((filename {uuid}.pem)(content"-----BEGIN CERTIFICATE-----\\n')
    files_of = '(((filename x.pem)(content "a \\"b\\"\\n"))((filename y.pem)(content c)))'
    assert told(f"(Write(ApplianceCertificate Erase_old {files_of}))") == "WriteResult"
    assert told("(Write (ApplianceCertificate Merge (((filename z.pem)(content d)))))") == "WriteResult"
    assert trust.names(c.pool.machine("host2").system, trust.CA_FOLDER) == ["x.pem", "y.pem", "z.pem"]
    many = told("(CollectMany ApplianceCertificate (x.pem y.pem))")
    assert many == '(CollectManyResult(((filename x.pem)(content"a \\"b\\"\\n"))((filename y.pem)(content c))))'
    assert told("GenBundle") == "GenBundleResult"
    assert c.pool.machine("host2").system.files[trust.BUNDLES[trust.CA_FOLDER]] == b'a "b"\n\nc\nd'
    for wrong in (
        "",
        "(",
        "()",
        ")",
        "(CollectOne Nothing x)",
        "(Write(ApplianceCertificate Never ()))",
        "Other",
        "a b",
    ):
        with pytest.raises(Failure, match="failed to parse command"):
            told(wrong)
    with pytest.raises(Failure, match="No such file"):
        told("(CollectOne ApplianceCertificate gone.pem)")


# --- over sockets


def test_over_tls_the_port_shows_what_is_installed() -> None:
    """From the next connection on; and again what the server's authority vouches for, after a reset."""

    def seen(url: str) -> str:
        place = urlsplit(url)
        text = ssl.get_server_certificate((place.hostname or "", place.port or 443))
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).digest().hex(":").upper()

    with PoolServer(MockPool.create(hosts=2, vms=0, release="8.4"), tls=True) as server:
        with connect(server.url, "root", "secret", verify=server.cafile) as session:
            hosts = {session.host.get_name_label(ref): ref for ref in session.host.get_all()}

            def told(kind: str) -> set[str]:
                return {
                    row["fingerprint"] for row in session.Certificate.get_all_records().values() if row["type"] == kind
                }

            urls = [server.url_of(machine) for machine in server.pool.machines]
            assert told("host") == {seen(url) for url in urls} and len(told("host_internal")) == 2
            found = pem.certificate("host2")
            session.host.install_server_certificate(hosts["host2"], pem.public(found), pem.private(pem.key()))
            assert (
                seen(urls[1])
                == pem.fingerprint(found)
                == server.pool.fingerprints[server.pool.machines[1].uuid]["sha-256"]
            )
            assert told("host") == {seen(url) for url in urls}
            session.host.reset_server_certificate(hosts["host2"])
            assert seen(urls[1]) != pem.fingerprint(found) and told("host") == {seen(url) for url in urls}
        with connect(urls[1], "root", "secret", verify=server.cafile) as session:
            assert session.origin == server.url


def test_a_pool_that_is_taken_back_shows_what_it_showed() -> None:
    """And one that is served again shows what was installed, or what its new server vouches for."""
    pool = MockPool.create(hosts=2, vms=0, release="8.4")
    with PoolServer(pool, tls=True):
        first = dict(pool.fingerprints)
        with pool.savepoint():
            session = pool.dispatch("session.login_with_password", ["root", "secret"])
            host = pool.host_row(pool.master).ref
            found = pem.certificate("mine")
            args = [session, host, pem.public(found), pem.private(pem.key())]
            pool.dispatch("host.install_server_certificate", args)
            assert pool.fingerprints[pool.master.uuid]["sha-256"] == pem.fingerprint(found)
        assert pool.fingerprints == first
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        pool.dispatch("host.install_server_certificate", [session, *args[1:]])
    assert pool.fingerprints == {}
    with PoolServer(pool, tls=True) as again:
        assert pool.fingerprints[pool.master.uuid]["sha-256"] == pem.fingerprint(found)
        assert pool.fingerprints[pool.machines[1].uuid] != first[pool.machines[1].uuid]
        assert again.cafile


# --- old protocols


def test_old_protocols_are_a_hosts_own_and_can_be_every_hosts(calls: Make) -> None:
    c = calls(release="7.0", hosts=2)
    hosts, pool = c("host.get_all"), c.pool.store.pool().ref
    c("host.set_ssl_legacy", hosts[0], False)
    assert [c("host.get_ssl_legacy", host) for host in hosts] == [False, True]
    c("pool.disable_ssl_legacy", pool)
    assert [c("host.get_ssl_legacy", host) for host in hosts] == [False, False]
    c("pool.enable_ssl_legacy", pool)
    assert [c("host.get_ssl_legacy", host) for host in hosts] == [True, True]


def test_since_8_2_there_are_no_old_protocols(calls: Make) -> None:
    """Nobody can have them back; who switches them off is told nothing."""
    c = calls(release="8.2")
    host, pool = c.host("host1").ref, c.pool.store.pool().ref
    error = ["VALUE_NOT_SUPPORTED", "value", "true", "Legacy SSL support has been removed"]
    assert c.refused("host.set_ssl_legacy", host, True) == error
    c("host.set_ssl_legacy", host, False)
    c("pool.disable_ssl_legacy", pool)
    assert c.refused("pool.enable_ssl_legacy", pool) == ["MESSAGE_REMOVED"]
