"""What a pool and a host that joins it let each other trust: certificates of hosts, and of authorities."""

from __future__ import annotations

from .. import certificates, hosts, trust
from ..call import Call
from ..pool_operations import operation
from . import verbs_of

verb = verbs_of("pool")

PEM = ".pem"


@verb("current_operations")
def exchange_certificates_on_join(call: Call, uuid: str, certificate: str) -> dict[str, str]:
    """Every host is given the newcomer's certificate; the newcomer those of all hosts, by the names of their files."""
    with operation(call, "exchange_certificates_on_join"):
        systems = [hosts.reached(call, host).machine.system for host in call.db.table("host")]
        for system in systems:
            trust.change(system, {f"{trust.POOL_FOLDER}{uuid}{PEM}": certificate.encode()})
            trust.bundle(system, (trust.POOL_FOLDER,))
        mine = call.machine.system
        return {
            name: mine.files[trust.POOL_FOLDER + name].decode()
            for name in trust.names(mine, trust.POOL_FOLDER)
            if name.endswith(PEM)
        }


@verb("current_operations", "Certificate.*")
def exchange_ca_certificates_on_join(call: Call, given: dict[str, str], export: list[str]) -> dict[str, str]:
    """The pool trusts the authorities that are `given`, by name; those named by `export` are the answer."""
    with operation(call, "exchange_ca_certificates_on_join"):
        systems = [hosts.reached(call, host).machine.system for host in call.db.table("host")]
        wanted = [call.db.get(trust.TABLE, ref)["name"] for ref in export]
        files = call.machine.system.files
        answer = {name: files[trust.CA_FOLDER + name].decode() for name in wanted}
        known = {row["name"] for row in call.db.table(trust.TABLE).values() if row["type"] == "ca"}
        for name, text in given.items():
            for system in systems:
                trust.change(system, {trust.CA_FOLDER + name: text.encode()})
                trust.bundle(system, (trust.CA_FOLDER,))
            if name not in known:
                trust.add_row(call.pool, certificates.parse(text), type="ca", name=name)
        return answer
