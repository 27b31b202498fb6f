"""Whom hosts trust and what they show: files on their disks, by the paths that the product uses, and the rows about them.

A host's own certificates are made when somebody first needs them: making them takes a library that is an extra. Over
sockets with TLS that is at once, and then the server's authority vouches for them. Whoever puts another certificate into a
host's place goes through `show`, so that the port shows it and its row says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import certificates
from .authority import AUTHORITY, self_signed
from .call import refuse

if TYPE_CHECKING:
    from .machine.host import HostMachine, System
    from .pool import MockPool
    from .store import Row, Store

SERVER = "/etc/xensource/xapi-ssl.pem"
"""The key and certificate that a host's port shows, with whoever vouches for it."""
INTERNAL = "/etc/xensource/xapi-pool-tls.pem"
"""The same for the other hosts of its pool, since 8.3."""
CA_FOLDER = "/etc/stunnel/certs/"
CRL_FOLDER = "/etc/stunnel/crls/"
POOL_FOLDER = "/etc/stunnel/certs-pool/"
"""The hosts' internal certificates, each by its host's uuid."""
BUNDLES = {
    CA_FOLDER: "/etc/stunnel/xapi-stunnel-ca-bundle.pem",
    POOL_FOLDER: "/etc/stunnel/xapi-pool-ca-bundle.pem",
}
"""By folder, the file with all that is in it."""
VERIFIES = "/var/xapi/verify-certificates"
"""Is there while a host checks whom it connects to."""
OWN = {"host": SERVER, "host_internal": INTERNAL}
"""The file of a host's own certificate, by the type of its row."""
TABLE = "Certificate"


# --- files


def names(system: System, folder: str) -> list[str]:
    """The names of the files in a folder of a host."""
    return sorted(path[len(folder) :] for path in system.files if path.startswith(folder))


def change(system: System, files: Mapping[str, bytes | None]) -> None:
    """Write files of a host; what is None is removed. The dict that holds them is never changed: a backup shares it."""
    system.files = {path: data for path, data in {**system.files, **files}.items() if data is not None}


def clear(system: System, folder: str) -> None:
    """Remove what is in a folder of a host."""
    change(system, {folder + name: None for name in names(system, folder)})


def bundle(system: System, folders: Iterable[str] = tuple(BUNDLES)) -> None:
    """Make the files anew that hold all that is in these folders; there is none of an empty one."""
    for folder in folders:
        pems = [system.files[folder + name] for name in names(system, folder) if name.endswith(".pem")]
        change(system, {BUNDLES[folder]: b"\n".join(pems) or None})


# --- rows


def has_types(store: Store) -> bool:
    """Whether rows say what a certificate is for: since 8.3 there are others than those that hosts show."""
    return TABLE in store.tables and "type" in store.shape(TABLE).fields


def add_row(pool: MockPool, certificate: Any, **fields: Any) -> Row:
    """The row of a certificate, as far as the release tells of it."""
    known = pool.store.shape(TABLE).fields
    told = {"uuid": pool.new_uuid(), **certificates.row_of(certificate), **fields}
    return pool.store.create(TABLE, pool.new_ref(), {name: value for name, value in told.items() if name in known})


def rows_of(store: Store, host: Row, kind: str) -> list[Row]:
    """The rows of a host's own certificates of a type."""
    found = store.table(TABLE).values()
    return [row for row in found if row["host"] == host.ref and row.get("type", "host") == kind]


def drop_rows(store: Store, rows: Iterable[Row]) -> None:
    """Forget certificates."""
    for row in rows:
        store.delete(row)


def synchronise(pool: MockPool, machine: HostMachine) -> None:
    """Write down which certificates a host has, as its toolstack does when it starts."""
    host = pool.host_row(machine)
    if host is None or TABLE not in pool.store.tables:
        return
    for kind, path in OWN.items():
        if path not in machine.system.files or (kind != "host" and not has_types(pool.store)):
            continue
        certificate, rows = read(machine.system, path), rows_of(pool.store, host, kind)
        if [row["fingerprint"] for row in rows] != [certificates.fingerprint(certificate)]:
            add_row(pool, certificate, host=host.ref, type=kind)
            drop_rows(pool.store, rows)


def embody(pool: MockPool) -> None:
    """Give hosts the files that the rows of a loaded database tell of; what is in them no row tells."""
    rows = pool.store.table(TABLE).values() if has_types(pool.store) else ()
    trusted = {CA_FOLDER + row["name"]: b"" for row in rows if row["type"] == "ca" and row["name"]}
    others = {f"{POOL_FOLDER}{row['uuid']}.pem": b"" for row in pool.store.table("host").values()}
    for machine in pool.machines:
        host = pool.host_row(machine)
        checks = host is not None and host.get("tls_verification_enabled", False)
        change(machine.system, {**trusted, **({**others, VERIFIES: b""} if checks else {})})


# --- a host's own certificates


def read(system: System, path: str) -> Any:
    """The certificate in a file with key, certificate and chain. Raises `CERTIFICATE_LIBRARY_CORRUPT`."""
    try:
        return certificates.parse(public(system, path))
    except ValueError:
        raise refuse("CERTIFICATE_LIBRARY_CORRUPT") from None


def public(system: System, path: str) -> str:
    """The same as text. Raises `CERTIFICATE_LIBRARY_CORRUPT`."""
    found = certificates.blocks(system.files[path].decode(errors="replace"), certificates.CERTIFICATE)
    if not found:
        raise refuse("CERTIFICATE_LIBRARY_CORRUPT")
    return found[0]


def own(pool: MockPool, machine: HostMachine, kind: str = "host") -> str:
    """A host's own certificate as text, which is made if there is none. Raises `NOT_IMPLEMENTED` without the library."""
    path = OWN[kind]
    if path not in machine.system.files:
        show(pool, machine, made(pool, machine, kind), kind)
    return public(machine.system, path)


def made(pool: MockPool, machine: HostMachine, kind: str = "host") -> bytes:
    """A new key and certificate for a host, as it makes them itself."""
    certificates.x509()
    if kind == "host":
        return pool.issue(machine)
    return self_signed([machine.system.installation_uuid])


def show(pool: MockPool, machine: HostMachine, pem: bytes, kind: str = "host") -> None:
    """Let a host show this from now on, and write it down."""
    change(machine.system, {OWN[kind]: pem})
    if kind == "host":
        pool.on_certificate(machine)
    synchronise(pool, machine)


def serve(pool: MockPool, machine: HostMachine) -> None:
    """Give a host that begins to be served what it lacks, or has from an authority of before."""
    pem = machine.system.files.get(SERVER)
    if pem is None or read(machine.system, SERVER).issuer.rfc4514_string() == f"CN={AUTHORITY}":
        show(pool, machine, made(pool, machine))
    else:
        pool.on_certificate(machine)
    if has_types(pool.store):
        own(pool, machine, "host_internal")


# --- what hosts give each other


def copy(source: System, target: System, folders: Iterable[str]) -> None:
    """Let a host have the certificates in these folders that another has, and nothing else. New ones, which are still being
    given out, and old ones that were kept aside do not count."""
    for folder in folders:
        given = [name for name in names(source, folder) if name.endswith(".pem") and not name.endswith(".new.pem")]
        clear(target, folder)
        change(target, {folder + name: source.files[folder + name] for name in given})


def lacks(pool: MockPool, system: System) -> bool:
    """Whether a host lacks a certificate that the pool trusts: of an authority, or of one of its hosts."""
    rows = pool.store.table(TABLE).values() if has_types(pool.store) else ()
    wanted = {row["name"] for row in rows if row["type"] == "ca"}
    hosts = {f"{row['uuid']}.pem" for row in pool.store.table("host").values()} if VERIFIES in system.files else set()
    return not (wanted <= set(names(system, CA_FOLDER)) and hosts <= set(names(system, POOL_FOLDER)))
