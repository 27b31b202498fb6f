"""Looking at hosts one by one, without a pool: who serves, who follows whom, and what keeps the others from doing so.

A host tells its role to a login. The master opens a session, a member names its master, a host in emergency mode answers
with what it is waiting for. From 4.1 on a host also lets a local user in whatever its mode is, for calls that concern it
alone; hosts of 4.0 have no such way in but their console.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import xmlrpc
from ..errors import Failure, ProcedureError, TransportError
from ..session import Session
from ..transport import Request, origin_at

if TYPE_CHECKING:
    from ..credentials import Credentials

MASTER, MEMBER, EMERGENCY, SILENT, CLOSED = "master", "member", "emergency", "silent", "closed"
"""What a host is seen to be: it serves, follows a master, waits in emergency mode, does not answer, or lets nobody in."""

WAIT, MEMBERS, NEW_MASTER, REJOIN, NETWORK, HA, VERSION = (
    "wait",
    "members",
    "master",
    "member",
    "network",
    "ha",
    "version",
)
"""What mends a host: time; `recover members`, `recover master`, `recover member`; its network, the pool's high availability,
or other software, which are a person's to put right."""

REASONS = {
    "HOST_STILL_BOOTING": ("it waits for its master, or is still starting", NEW_MASTER),
    "HOST_MASTER_CANNOT_TALK_BACK": ("its master cannot reach it at {0}: see to its address and the network", NETWORK),
    "HOST_UNKNOWN_TO_MASTER": ("its master has no record of it ({0}), or another secret: it has to join again", REJOIN),
    "HOST_ITS_OWN_SLAVE": ("it takes its own address for its master's", MEMBERS),
    "HOST_BROKEN": ("its role was lost when a master changed", MEMBERS),
    "HOST_HAS_NO_MANAGEMENT_IP": ("its management interface has no address: see to it at its console", NETWORK),
    "HOST_XAPI_VERSION_HIGHER_THAN_COORDINATOR": (
        "it is newer ({0}) than its master: upgrade the master, or take this host back to the master's release",
        VERSION,
    ),
    "HA_POOL_IS_ENABLED_BUT_HOST_IS_DISABLED": (
        "it left high availability, which the pool has on: switch it off in the pool, and on again",
        HA,
    ),
    "SESSION_AUTHENTICATION_FAILED": ("it serves as master, and refuses the password", ""),
}
"""What the codes mean that a login comes to, and what mends it."""
LOGIN = "session.login_with_password"
UNKNOWN = "MESSAGE_METHOD_UNKNOWN"
NO_SUCH_LOGIN = frozenset({UNKNOWN, "SESSION_INVALID"})
"""What hosts of 4.0 answer to a local login: they know none, or take its first argument for a session."""


class NoWayIn(ProcedureError):
    """A host that has no login of its own for users, being of 4.0: what concerns it alone is typed at its console."""


@dataclass(frozen=True)
class HostState:
    """One host as it shows itself. `master` is the address that a member names; `pool` and `uuid` are the pool's and the
    master's own; `known` are the addresses in a master's database. `code` and `params` are what a login came to, `text` says
    what is wrong, and `mend` what mends it; both are empty where all is well. `emergency` is what the host says of itself,
    None where it cannot be asked."""

    address: str
    state: str
    master: str = ""
    pool: str = ""
    uuid: str = ""
    known: tuple[str, ...] = ()
    code: str = ""
    params: tuple[str, ...] = ()
    text: str = ""
    mend: str = ""
    emergency: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {**vars(self), "known": list(self.known), "params": list(self.params)}


def look(session: Session, address: str, credentials: Credentials) -> HostState:
    """What the host at `address` is, by itself. `session` gives the way there: its transport, scheme and port. Raises
    `ValueError` for what is no address."""
    origin = origin_at(session.origin, address)
    request = Request(
        *(origin, "POST", "/", {"content-type": "text/xml"}),
        xmlrpc.dumps_call(LOGIN, (credentials.username, credentials.password)),
    )
    try:
        ref = xmlrpc.loads_response(session.transport.send(request).read())
    except Failure as error:
        return _refused(session, address, credentials, error)
    except (TransportError, ValueError) as error:
        return HostState(address, SILENT, text=f"it does not answer: {_short(error)}")
    with Session(origin, ref=str(ref), transport=session.transport, protocol="xmlrpc") as opened:
        try:
            pool = next(iter(opened.pool.get_all_records().values()))
            hosts = opened.host.get_all_records()
        except (Failure, TransportError) as error:
            return HostState(address, CLOSED, text=f"it lets users in, and then fails: {_short(error)}", mend=WAIT)
        finally:
            with suppress(Failure, TransportError):
                opened.logout()
    known = tuple(host.address for host in hosts.values())
    return HostState(address, MASTER, pool=pool.uuid, uuid=hosts[pool.master].uuid, known=known)


def _refused(session: Session, address: str, credentials: Credentials, error: Failure) -> HostState:
    """What a host is that refuses a login."""
    code, params = error.code, tuple(error.params)
    if code == "HOST_IS_SLAVE":
        return HostState(address, MEMBER, master=params[0] if params else "", code=code, params=params)
    text, mend = REASONS.get(code, ("", MEMBERS))
    text = text.format(*params, *[""] * 2) if text else f"it answers {error}"
    if code == "SESSION_AUTHENTICATION_FAILED":
        return HostState(address, CLOSED, code=code, params=params, text=text, mend=mend)
    emergency: bool | None = None
    with suppress(Failure, TransportError, NoWayIn), at(session, address, credentials) as local:
        emergency = local.host.is_in_emergency_mode()
    return HostState(address, EMERGENCY, code=code, params=params, text=text, mend=mend, emergency=emergency)


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0]


@contextmanager
def at(session: Session, address: str, credentials: Credentials, *, local: bool = True) -> Iterator[Session]:
    """A session with the host at `address` alone, ended on leaving. A `local` one is open in emergency mode too, since 4.1;
    another wants a host that is its own master. Raises what a login does, and `NoWayIn`."""
    own = Session(origin_at(session.origin, address), transport=session.transport, protocol="xmlrpc")
    if local:
        try:
            own.slave_local_login_with_password(credentials.username, credentials.password)
        except Failure as error:
            if error.code not in NO_SUCH_LOGIN:
                raise
            raise NoWayIn(f"{address} lets no user in while it has no master: hosts do since 4.1") from None
    else:
        own.login_with_password(credentials.username, credentials.password)
    try:
        yield own
    finally:
        with suppress(Failure, TransportError):  # a toolstack that starts anew has forgotten it
            own.logout()


@dataclass(frozen=True)
class Status:
    """All hosts that were looked at, and what is to be said of them together, in the order in which to go on."""

    hosts: tuple[HostState, ...]
    advice: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.advice

    def as_dict(self) -> dict[str, Any]:
        """The status as plain values."""
        return {"ok": self.ok, "hosts": [host.as_dict() for host in self.hosts], "advice": list(self.advice)}


def status(session: Session, addresses: Sequence[str], credentials: Credentials) -> Status:
    """Look at the hosts at `addresses`, at the masters that they name, and at those that a master knows; what is wrong with
    each, and how to go on. Changes nothing."""
    seen: dict[str, HostState] = {}
    waiting = list(dict.fromkeys(addresses))
    while waiting:
        address = waiting.pop(0)
        if address in seen:
            continue
        found = seen[address] = look(session, address, credentials)
        waiting += [other for other in (found.master, *found.known) if other and other not in seen]
    return Status(tuple(seen.values()), tuple(_advice(list(seen.values()))))


def _advice(hosts: list[HostState]) -> Iterator[str]:
    """What to do, the most pressing first."""
    masters = [host for host in hosts if host.state == MASTER]
    pools: dict[str, list[HostState]] = {}
    for master in masters:
        pools.setdefault(master.pool, []).append(master)
    for pool, both in pools.items():
        if len(both) > 1:
            names = " and ".join(host.address for host in both)
            yield (
                f"{names} both serve the pool {pool}: guests may run twice. Find out which is the right one, and have the "
                f"other follow it: xenctl recover members --server RIGHT"
            )
    lost = [host for host in hosts if host.state == EMERGENCY]
    closed = [host for host in hosts if host.state == CLOSED]
    serves = bool(masters or closed)
    if lost and not serves:
        yield (
            "no host serves as master: switch the master on and wait; if it is lost for good, make a member the master: "
            "xenctl recover master --new HOST --lost MASTER"
        )
    for host in lost:
        if host.mend in (MEMBERS, NEW_MASTER) and serves:
            yield f"{host.address}: {host.text}; have it follow the master: xenctl recover members"
        elif host.mend == REJOIN:
            yield f"{host.address}: {host.text}: xenctl recover member --host {host.address}"
        elif host.mend != NEW_MASTER:
            yield f"{host.address}: {host.text}"
    for host in hosts:
        if host.state in (SILENT, CLOSED):
            yield f"{host.address}: {host.text}"
        elif host.state == MEMBER and masters and host.master not in [master.address for master in masters]:
            yield f"{host.address} follows {host.master}, which does not serve: xenctl recover members"
