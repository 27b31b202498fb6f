"""Certificates of a pool: what all its hosts trust, what is revoked, and whether hosts check whom they connect to."""

from __future__ import annotations

from xenctl.errors import Failure

from .. import certificates, hosts, pool_operations, trust
from ..call import Call, Steps, refuse
from ..store import Row
from . import host_certificates, verbs_of
from .host_certificates import CA, CRL, Kind, install, uninstall

verb = verbs_of("pool")

STEP = 1.0
"""Simulated seconds that it takes a host to begin to check."""


# --- what hosts trust


def _install(call: Call, kind: Kind, name: str, text: str) -> None:
    """On the master, and from there on each host; where that fails, the master forgets it again."""
    install(call.machine.system, kind, name, text)
    try:
        _synchronise(call)
    except Failure:
        uninstall(call.machine.system, kind, name)
        raise


def _uninstall(call: Call, kind: Kind, name: str, *, force: bool = False) -> None:
    uninstall(call.machine.system, kind, name, force=force)
    _synchronise(call)


def _synchronise(call: Call) -> None:
    """Give each member what the master has, and no more; of the errors of one round the last is raised."""
    _each(call, list(call.db.table("host")), None)
    for kind in (CA, CRL):
        _each(call, hosts.members(call), kind)


def _each(call: Call, refs: list[str], kind: Kind | None) -> None:
    """Let hosts tidy up, or have the files of a kind that the master has."""
    error: Failure | None = None
    for ref in refs:
        try:
            if kind is None:
                host_certificates.certificate_sync(call, ref)
            else:
                _follow(call, ref, kind)
        except Failure as caught:
            error = caught
    if error is not None:
        raise error


def _follow(call: Call, ref: str, kind: Kind) -> None:
    master, system = call.machine.system, hosts.reached(call, ref).machine.system
    wanted, there = trust.names(master, kind.folder), trust.names(system, kind.folder)
    for name in [name for name in there if name not in wanted]:
        uninstall(system, kind, name)
    for name in [name for name in wanted if name not in there]:
        install(system, kind, name, master.files[kind.folder + name].decode(errors="replace"))


def _rows(call: Call, name: str) -> list[Row]:
    found = call.db.table(trust.TABLE).values()
    return [row for row in found if row["type"] == "ca" and row["name"] == name]


def _trust(call: Call, name: str, cert: str) -> None:
    """Since 8.3 a certificate must hold, and has a row; before that nobody looks at what is in it."""
    if not trust.has_types(call.db):
        _install(call, CA, name, cert)
        return
    certificate = certificates.valid(cert, certificates.OF_AUTHORITIES)
    _install(call, CA, name, cert)
    before = _rows(call, name)
    trust.add_row(call.pool, certificate, type="ca", name=name)
    trust.drop_rows(call.db, before)


def _distrust(call: Call, name: str, *, force: bool) -> None:
    _uninstall(call, CA, name, force=force)
    if trust.has_types(call.db):
        rows = _rows(call, name)
        if not rows:
            raise refuse("INVALID_VALUE", "certificate:name", name)
        trust.drop_rows(call.db, rows)


@verb("Certificate.*")
def install_ca_certificate(call: Call, name: str, cert: str) -> str:
    _trust(call, name, cert)
    return ""


@verb("Certificate.*")
def uninstall_ca_certificate(call: Call, name: str, force: bool) -> str:
    _distrust(call, name, force=force)
    return ""


@verb("Certificate.*")
def certificate_install(call: Call, name: str, cert: str) -> str:
    """The old name of `install_ca_certificate`."""
    _trust(call, name, cert)
    return ""


@verb("Certificate.*")
def certificate_uninstall(call: Call, name: str) -> str:
    """The old name of `uninstall_ca_certificate`, without force."""
    _distrust(call, name, force=False)
    return ""


@verb()
def certificate_list(call: Call) -> list[str]:
    """The names: those of rows since 8.3, before that those of the master's files."""
    if not trust.has_types(call.db):
        return trust.names(call.machine.system, trust.CA_FOLDER)
    return [row["name"] for row in call.db.table(trust.TABLE).values() if row["type"] == "ca" and row["name"]]


@verb()
def certificate_sync(call: Call) -> str:
    _synchronise(call)
    return ""


@verb()
def crl_install(call: Call, name: str, cert: str) -> str:
    """A list of revoked certificates; nobody looks at what is in it."""
    _install(call, CRL, name, cert)
    return ""


@verb()
def crl_uninstall(call: Call, name: str) -> str:
    _uninstall(call, CRL, name)
    return ""


@verb()
def crl_list(call: Call) -> list[str]:
    return trust.names(call.machine.system, trust.CRL_FOLDER)


# --- whether hosts check whom they connect to


@verb(
    "tls_verification_enabled",
    "wlb_verify_cert",
    "current_operations",
    "host.tls_verification_enabled",
    "Certificate.*",
)
def enable_tls_verification(call: Call) -> Steps:
    """Every host gets the internal certificates of all, then each begins to check; no way leads back but an emergency's."""
    with pool_operations.operation(call, "tls_verification_enable"):
        _exchange(call)
        for ref in hosts.master_first(call):
            yield STEP
            trust.change(hosts.reached(call, ref).machine.system, {trust.VERIFIES: b""})
            call.db.write(call.db.get("host", ref), tls_verification_enabled=True)
        call.db.write(call.db.pool(), tls_verification_enabled=True, wlb_verify_cert=True)
    return ""


def _exchange(call: Call) -> None:
    """Collect from all before anything is changed."""
    machines = {call.db.get("host", ref)["uuid"]: hosts.reached(call, ref).machine for ref in hosts.master_first(call)}
    found = {
        f"{trust.POOL_FOLDER}{uuid}.pem": trust.own(call.pool, machine, "host_internal").encode()
        for uuid, machine in machines.items()
    }
    for machine in machines.values():
        trust.clear(machine.system, trust.POOL_FOLDER)
        trust.change(machine.system, found)
        trust.bundle(machine.system)


# --- old protocols


@verb("host.ssl_legacy")
def disable_ssl_legacy(call: Call, ref: str) -> str:
    """Since 8.2 there is nothing to disable."""
    call.db.get("pool", ref)
    return _set_ssl_legacy(call, value=False) if "certificates" not in call.db.shape("host").fields else ""


@verb("host.ssl_legacy")
def enable_ssl_legacy(call: Call, ref: str) -> str:
    call.db.get("pool", ref)
    return _set_ssl_legacy(call, value=True)


def _set_ssl_legacy(call: Call, *, value: bool) -> str:
    """On every host, members first; those that answer keep it, and the first error is raised."""
    hosts.each(hosts.master_last(call), lambda host: host_certificates.set_ssl_legacy(call, host, value))
    return ""
