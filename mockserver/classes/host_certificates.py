"""Certificates of one host: those it trusts, what is revoked, and those it shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from xenctl.values import parse_datetime

from .. import certificates, distribution, hosts, pool_operations, trust
from ..call import Call, Steps, refuse
from ..store import Row
from . import message, verbs_of

if TYPE_CHECKING:
    from ..machine.host import System

verb = verbs_of("host")

SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
LINGER = 5.0
"""Simulated seconds for which a host still shows its old certificate to slow clients."""
ALERTS = ((0, "EXPIRED", 1), (7, "EXPIRING_07", 1), (14, "EXPIRING_14", 2), (30, "EXPIRING_30", 3))
"""Of a certificate that holds for less than so many days: how the message ends, and its priority."""


@dataclass(frozen=True)
class Kind:
    """Files that are installed by name: the folder they are in, and how their errors begin."""

    folder: str
    code: str


CA = Kind(trust.CA_FOLDER, "CERTIFICATE")
CRL = Kind(trust.CRL_FOLDER, "CRL")


# --- what hosts trust, and what is revoked


def install(system: System, kind: Kind, name: str, text: str) -> None:
    """Write a file. Raises `..._NAME_INVALID` and `..._ALREADY_EXISTS`."""
    _check_name(kind, name)
    if kind.folder + name in system.files:
        raise refuse(f"{kind.code}_ALREADY_EXISTS", name)
    trust.change(system, {kind.folder + name: text.encode()})
    _bundled(system, kind)


def uninstall(system: System, kind: Kind, name: str, *, force: bool = False) -> None:
    """Remove a file. Raises `..._NAME_INVALID`, and `..._DOES_NOT_EXIST` unless it is by `force`."""
    _check_name(kind, name)
    if kind.folder + name not in system.files and not force:
        raise refuse(f"{kind.code}_DOES_NOT_EXIST", name)
    trust.change(system, {kind.folder + name: None})
    _bundled(system, kind)


def _check_name(kind: Kind, name: str) -> None:
    if not name:
        raise refuse("INTERNAL_ERROR", 'Invalid_argument("index out of bounds")')
    if name[0] == "." or not name.endswith(".pem") or not SAFE.issuperset(name):
        raise refuse(f"{kind.code}_NAME_INVALID", name)


def _bundled(system: System, kind: Kind) -> None:
    if kind.folder in trust.BUNDLES:
        trust.bundle(system, [kind.folder])


@verb()
def certificate_list(call: Call, host: str) -> list[str]:
    return trust.names(hosts.reached(call, host).machine.system, trust.CA_FOLDER)


@verb()
def crl_list(call: Call, host: str) -> list[str]:
    return trust.names(hosts.reached(call, host).machine.system, trust.CRL_FOLDER)


@verb()
def install_ca_certificate(call: Call, host: str, name: str, cert: str) -> str:
    """The file alone: whoever tells every host of the pool writes the row."""
    install(hosts.reached(call, host).machine.system, CA, name, cert)
    return ""


@verb()
def uninstall_ca_certificate(call: Call, host: str, name: str, force: bool) -> str:
    uninstall(hosts.reached(call, host).machine.system, CA, name, force=force)
    return ""


@verb()
def crl_install(call: Call, host: str, name: str, crl: str) -> str:
    install(hosts.reached(call, host).machine.system, CRL, name, crl)
    return ""


@verb()
def crl_uninstall(call: Call, host: str, name: str) -> str:
    uninstall(hosts.reached(call, host).machine.system, CRL, name)
    return ""


@verb()
def certificate_sync(call: Call, host: str) -> str:
    """Make the bundle of what the host trusts anew."""
    trust.bundle(hosts.reached(call, host).machine.system, [trust.CA_FOLDER])
    return ""


# --- what a host shows


@verb("Certificate.*")
def get_server_certificate(call: Call, host: str) -> str:
    """One that nobody needed before is made, and written down."""
    return trust.own(call.pool, hosts.reached(call, host).machine)


@verb("Certificate.*", "message.*")
def install_server_certificate(
    call: Call, host: str, certificate: str, private_key: str, certificate_chain: str
) -> str:
    machine = hosts.reached(call, host).machine
    if call.db.pool()["ha_enabled"]:
        raise refuse("HA_IS_ENABLED")
    trust.show(call.pool, machine, certificates.server_pem(certificate, private_key, certificate_chain))
    _alert(call, call.db.get("host", host))
    return ""


def _alert(call: Call, host: Row) -> None:
    """Tell operators of a certificate that will not hold for long; what was told of it before is dropped."""
    for row in trust.rows_of(call.db, host, "host"):
        left = parse_datetime(row["not_after"]) - certificates.now()
        for days, end, priority in ALERTS:
            if left < timedelta(days=days):
                said = "has expired" if days == 0 else "is expiring soon"
                text = f"The TLS server certificate {said}."
                body = f"<body><message>{text}</message><date>{row['not_after']}</date></body>"
                _tell(call, host["uuid"], f"HOST_SERVER_CERTIFICATE_{end}", priority, body)
                break


def _tell(call: Call, host: str, name: str, priority: int, body: str) -> None:
    names = {f"HOST_SERVER_CERTIFICATE_{end}" for _, end, _ in ALERTS}
    told = [row for row in call.pool.messages.about(host) if row["name"] in names]
    for row in told:
        if (row["name"], row["body"]) != (name, body):
            call.pool.messages.drop(call.db, row)
    if not any((row["name"], row["body"]) == (name, body) for row in told):
        message.create(call, name, priority, "Host", host, body)


@verb("Certificate.*")
def reset_server_certificate(call: Call, host: str) -> str:
    """A new one, as the host makes it for itself."""
    machine = hosts.reached(call, host).machine
    trust.show(call.pool, machine, trust.made(call.pool, machine))
    return ""


@verb("Certificate.*")
def emergency_reset_server_certificate(call: Call) -> str:
    """That of the host that is asked. Up to 8.2 its rows are dropped, later they stay until the toolstack starts anew."""
    pool, machine = call.pool, call.machine
    trust.change(machine.system, {trust.SERVER: trust.made(pool, machine)})
    pool.on_certificate(machine)
    host = pool.host_row(machine)
    if host is not None and not trust.has_types(call.db):
        trust.drop_rows(call.db, trust.rows_of(call.db, host, "host"))
    return ""


@verb("Certificate.*", "pool.current_operations")
def refresh_server_certificate(call: Call, host: str) -> Steps:
    """The internal one: the others get the new one beside the old one before the host shows it, and then drop the old."""
    with pool_operations.operation(call, "cert_refresh"):
        machine, uuid = hosts.reached(call, host).machine, call.db.get("host", host)["uuid"]
        away = [ref for ref, row in call.db.table("host").items() if not hosts.live(call.db, row)]
        if away:
            raise refuse("CANNOT_CONTACT_HOST", away[0])
        pem = trust.made(call.pool, machine, "host_internal")
        (public,) = certificates.blocks(pem.decode(), certificates.CERTIFICATE)
        for other in [hosts.reached(call, ref).machine for ref in call.db.table("host")]:
            trust.change(other.system, {f"{trust.POOL_FOLDER}{uuid}.new.pem": public.encode()})
            trust.bundle(other.system, [trust.POOL_FOLDER])
        trust.show(call.pool, machine, pem, "host_internal")
        yield LINGER
        for ref in [host, *(ref for ref in call.db.table("host") if ref != host)]:
            _drop_old(hosts.reached(call, ref).machine.system, f"{trust.POOL_FOLDER}{uuid}")
    return ""


def _drop_old(system: System, path: str) -> None:
    """Let the new certificate of a host take the place of its old one, where there is one."""
    if f"{path}.pem" in system.files and f"{path}.new.pem" in system.files:
        old, new = system.files[f"{path}.pem"], system.files[f"{path}.new.pem"]
        trust.change(system, {f"{path}.bak": old, f"{path}.pem": new, f"{path}.new.pem": None})
        trust.bundle(system, [trust.POOL_FOLDER])


# --- what hosts of a pool give each other


@verb("pool.current_operations")
def copy_primary_host_certs(call: Call, host: str) -> str:
    """The host has then what the master trusts, and nothing else."""
    with pool_operations.operation(call, "copy_primary_host_certs"):
        system = hosts.reached(call, host).machine.system
        trust.copy(call.machine.system, system, (trust.POOL_FOLDER, trust.CA_FOLDER))
        trust.bundle(system)
    return ""


@verb("Certificate.*")
def cert_distrib_atom(call: Call, host: str, command: str) -> str:
    """One step of giving certificates to each other; see `distribution`."""
    return distribution.execute(call.pool, hosts.reached(call, host).machine, command)


# --- whether a host checks whom it connects to


@verb("tls_verification_enabled")
def emergency_disable_tls_verification(call: Call) -> str:
    """On the host that is asked, also where it cannot reach the master to write it down, which is then the error."""
    trust.change(call.machine.system, {trust.VERIFIES: None})
    _told(call, enabled=False)
    return ""


@verb("tls_verification_enabled")
def emergency_reenable_tls_verification(call: Call) -> str:
    system = call.machine.system
    known = call.machine.xapi.mode in ("master", "member")
    if (
        known
        and not call.db.pool()["tls_verification_enabled"]
        and trust.BUNDLES[trust.POOL_FOLDER] not in system.files
    ):
        raise refuse("TLS_VERIFICATION_NOT_ENABLED_IN_POOL")
    trust.change(system, {trust.VERIFIES: b""})
    _told(call, enabled=True)
    return ""


def _told(call: Call, *, enabled: bool) -> None:
    host = call.pool.host_row(call.machine)
    if host is None or call.machine.xapi.mode not in ("master", "member"):
        done = "enabled" if enabled else "disabled"
        text = f"TLS verification {done} successfully. Failed to contact the coordinator to update the database."
        raise refuse("INTERNAL_ERROR", text)
    call.db.write(host, tls_verification_enabled=enabled)


# --- old protocols


@verb("ssl_legacy")
def set_ssl_legacy(call: Call, ref: str, value: bool) -> str:
    """Since 8.2 there are none: then nothing is done, and nobody can have them back."""
    row = call.db.get("host", ref)
    if "certificates" not in row:
        hosts.reached(call, ref)
        call.db.write(row, ssl_legacy=value)
    elif value:
        raise refuse("VALUE_NOT_SUPPORTED", "value", "true", "Legacy SSL support has been removed")
    return ""
