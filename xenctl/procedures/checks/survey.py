"""What checks look at: the pool's tables, each read once, and answers of hosts that are asked when a check wants them.

Releases differ in what they have. A table that a release lacks is empty, a field is left out of its records, and a
question that a host cannot answer is answered with None: what cannot be known is not found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ...errors import Failure, TransportError
from ...releases import Release, Version
from ...values import parse_datetime
from ..hands_plugin import NAME, meaning
from ..observe import HostFacts, PoolFacts, VMFacts, attached, observe
from ..placement import pinned
from ..planner.pieces import Wishes
from .growth import growth

if TYPE_CHECKING:
    from ...session import Session

Records = Mapping[str, Mapping[str, Any]]
ABSENT = frozenset({"MESSAGE_METHOD_UNKNOWN", "MESSAGE_REMOVED", "NOT_IMPLEMENTED", "RBAC_PERMISSION_DENIED"})
"""What a pool answers that does not have a table, or does not show it."""


class Answers:
    """Questions to single hosts. None where a host cannot answer: it is older than the question, or away. `url` is where
    the medium of the target is, where hosts install themselves; empty elsewhere."""

    url: str = ""

    def servertime(self, host: str) -> float | None:
        """The seconds by which the clock of a host (a reference) is before or behind that of whoever asks."""
        return None

    def plugin(self, host: str, function: str) -> str | None:
        """What the upgrade plugin of a host answers."""
        return None

    def medium(self, host: str, version: str) -> str:
        """Why a host cannot install `version` from where the medium is; empty where it can, or installs in another way."""
        return ""

    def certificate(self, host: str) -> str | None:
        """The certificate of a host, as PEM."""
        return None

    def attached(self, address: str) -> bool:
        """Whether the member at an address is up and out of emergency mode."""
        return True


class Asking(Answers):
    """The answers of a live pool."""

    def __init__(self, session: Session, url: str = "") -> None:
        self.session, self.url = session, url
        self.args = {"url": url} if url else {}

    def servertime(self, host: str) -> float | None:
        clock = self.session.clock
        before = clock.now()
        found = self._asked("host.get_servertime", host)
        return None if found is None else parse_datetime(found).timestamp() - (before + clock.now()) / 2

    def plugin(self, host: str, function: str) -> str | None:
        return self._asked("host.call_plugin", host, NAME, function, self.args)

    def medium(self, host: str, version: str) -> str:
        if not self.url:
            return ""
        try:
            answer = str(self.session.call("host.call_plugin", (host, NAME, "testUrl", self.args)))
        except Failure as error:
            return meaning(error) or str(error)
        except TransportError as error:
            return str(error)
        if answer.strip().lower() != "true":
            return answer
        return _other_version(self.plugin(host, "getVersion"), version)

    def certificate(self, host: str) -> str | None:
        return self._asked("host.get_server_certificate", host)

    def attached(self, address: str) -> bool:
        return attached(self.session, address)

    def _asked(self, method: str, *args: Any) -> str | None:
        try:
            return str(self.session.call(method, args))
        except (Failure, TransportError):
            return None


def _other_version(answer: str | None, wanted: str) -> str:
    """Why what a medium is said to be is not what is wanted; empty where it is, or nothing is said."""
    try:
        found = json.loads(answer or "{}").get("product-version", "")
    except (ValueError, AttributeError):
        return ""
    return f"the medium there is of {found}, not of {wanted}" if found and found != wanted else ""


class _Once:
    """A session whose tables are read once, however many ask for them."""

    def __init__(self, session: Session) -> None:
        self._session, self._read = session, dict[str, Records]()

    def __getattr__(self, kind: str) -> _Table:
        return _Table(self, kind)

    def records(self, kind: str) -> Records:
        if kind not in self._read:
            self._read[kind] = getattr(self._session, kind).get_all_records()
        return self._read[kind]


class _Table:
    def __init__(self, once: _Once, kind: str) -> None:
        self._once, self._kind = once, kind

    def get_all_records(self) -> Records:
        return self._once.records(self._kind)


@dataclass(frozen=True)
class Survey:
    """A pool to be checked: the picture that procedures plan with, its tables, and whom to ask. `now` are the
    seconds since the epoch at which it was looked at."""

    facts: PoolFacts
    tables: _Once | None = None
    ask: Answers = field(default_factory=Answers)
    now: float = 0.0

    def records(self, kind: str) -> Records:
        """The records of a class by reference; none where the release lacks it, or there are no tables."""
        if self.tables is None:
            return {}
        try:
            return self.tables.records(kind)
        except Failure as error:
            if error.code in ABSENT:
                return {}
            raise

    @cached_property
    def pool(self) -> Mapping[str, Any]:
        """The pool's record."""
        return next(iter(self.records("pool").values()), {})

    def get(self, kind: str, ref: object) -> Mapping[str, Any]:
        """One record; an empty one where there is none."""
        return self.records(kind).get(str(ref), {})


def surveyed(session: Session, *, url: str = "") -> Survey:
    """Look at a pool. Raises what `Session.call` does."""
    tables = _Once(session)
    return Survey(observe(cast("Session", tables)), tables, Asking(session, url), session.clock.now())


@dataclass(frozen=True)
class Situation:
    """A pool and what is to become of it: every host goes from `source`, the oldest release of a host, to `target`.
    `half_done` says that versions may be mixed already, `take_over` that another run's mark does not count, `wishes` how
    guests are to be treated."""

    survey: Survey
    source: Release
    target: Release
    half_done: bool = False
    take_over: bool = False
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def facts(self) -> PoolFacts:
        return self.survey.facts

    @property
    def ask(self) -> Answers:
        return self.survey.ask

    @cached_property
    def mixed(self) -> bool:
        """Whether a host is upgraded already."""
        return any(self.is_new(host) for host in self.facts.hosts.values())

    def is_new(self, host: HostFacts) -> bool:
        """Whether a host is upgraded already."""
        return host.version == self.target.product_version

    def policy(self, vm: VMFacts) -> str:
        """What becomes of a guest (see `Wishes`)."""
        return self.wishes.policy(vm, mixed=self.mixed and vm.state != "Suspended")

    @cached_property
    def pinned(self) -> Mapping[str, str]:
        """The guests that run and can go to no other host, by uuid, and why."""
        vms = (vm for vm in self.facts.vms.values() if vm.state == "Running" and vm.host and not vm.stuck)
        whys = ((vm.uuid, pinned(self.facts, vm, vm.host)) for vm in vms)
        return {uuid: why for uuid, why in whys if why}

    def crosses(self, *version: int) -> bool:
        """Whether the upgrade leads from before a version to it or past it."""
        return self.source.version < _whole(version) <= self.target.version

    def reaches(self, *version: int) -> bool:
        """Whether the target is that version or later."""
        return self.target.version >= _whole(version)

    def records(self, kind: str) -> Records:
        return self.survey.records(kind)

    def hosts(self) -> Iterator[tuple[HostFacts, Mapping[str, Any]]]:
        """Every host with its record, which is empty where there are no tables."""
        for host in self.facts.hosts.values():
            yield host, self.survey.get("host", host.ref)

    def guests(self) -> Iterator[tuple[VMFacts, Mapping[str, Any]]]:
        """Every guest with its record."""
        for vm in self.facts.vms.values():
            yield vm, self.survey.get("VM", vm.ref)

    def up(self) -> Iterator[tuple[VMFacts, Mapping[str, Any]]]:
        """Every guest that is not halted."""
        return ((vm, record) for vm, record in self.guests() if vm.state != "Halted")

    @cached_property
    def growth(self) -> Mapping[str, int]:
        """By host (uuid), the bytes by which its control domain grows. Hosts are asked for it once."""
        return growth(self)


def _whole(version: tuple[int, ...]) -> Version:
    return version + (0,) * (3 - len(version))
