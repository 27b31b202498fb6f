"""A person at the machines, who is told what to do and waited for.

What can be seen over the network is not asked: whether a host answers says that it is up, and its release is seen to later.
Only what stands on the installer's screen has to be typed. Without a terminal nothing is asked: what is to be done, and what
never, is told, and the host is waited for. Ctrl-C stops the run wherever it waits, and it can be gone on with.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from ..errors import ProcedureError, TransportError
from ..releases import find, parse_version
from ..transport import Request, origin_at
from .hands import FRESH, RESTORE, UPGRADE
from .ways_back import LOOK

if TYPE_CHECKING:
    from ..session import Session
    from .plan import Plan

PROBES = 3
"""How often nobody must answer before a host is taken to be down."""


@dataclass(frozen=True)
class Choice:
    """One of the installer's offers, in words: what to choose, what never to choose with it, and what follows. `otherwise`
    is what to do where it is not offered and nobody can be asked; `purpose` ends the sentence "HOST is to be ..."."""

    choose: str
    never: str
    follows: tuple[str, ...]
    purpose: str
    otherwise: str = ""


WAITED_FOR = "Take the medium out when it reboots. It is waited for."
CHOICES = {
    UPGRADE: Choice(
        'Choose the line "Upgrade ...": it preserves settings and guests.',
        'Never choose "Perform clean installation": it destroys the settings, and the guests on local storage.',
        ("Go through the rest. Where it asks for a backup, say yes.", WAITED_FOR),
        "installed",
        "Where no such line is there, choose nothing, and switch it off.",
    ),
    RESTORE: Choice(
        'Choose the line "Restore ... from backup"{of}.',
        'Never choose "Upgrade ..." or "Perform clean installation": both destroy what it is to go back to.',
        ("Go through the rest.", WAITED_FOR),
        "taken back",
        "Where no such line is there, or it names another release, choose nothing, and switch it off.",
    ),
    FRESH: Choice(
        'Choose "Perform clean installation", also where "Upgrade ..." is offered. What is on its disks is lost.',
        'Never choose "Upgrade ..." or "Restore ...": it would come back as the host that the pool has forgotten.',
        ("Give it the address {address}, and the pool's password for root.", WAITED_FOR),
        "installed afresh",
    ),
}
"""What a person is told, by what is to be chosen."""
NONE, AT_WORK, UNSEEN = "none", "working", "unseen"


@dataclass
class _Host:
    """What is known of one host: what it was told to boot, and how far it is as far as nobody can see."""

    medium: str = ""
    unattended: bool = False
    stage: str = ""
    found: str = ""
    held: str = ""


class Operator:
    """Hands that are a person's. `source` is what the person types into, `out` where they are told; `poll` is the seconds
    between two looks at a host.

    Raises `ProcedureError` where the person goes away in the middle of a question.
    """

    talks = True

    def __init__(
        self, session: Session, *, source: TextIO | None = None, out: TextIO | None = None, poll: float = 5.0
    ) -> None:
        self._session, self.poll = session, poll
        self._source, self._out = source or sys.stdin, out or sys.stderr
        self.watches = self._source.isatty()
        self._hosts: dict[str, _Host] = {}
        self._names: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._target = ""

    def knows(self, plan: Plan) -> None:
        """Learn names and addresses of the plan's hosts, and the release that they are to have."""
        self._target = plan.target
        self._names = {host.uuid: host.name for host in plan.hosts}
        self._addresses = {host.uuid: host.address for host in plan.hosts}

    # --- what is told, and asked

    def _tell(self, head: str, lines: Sequence[str]) -> None:
        numbered = (f"  {number}. {line}" for number, line in enumerate(lines, 1))
        print("", head, *numbered, sep="\n", file=self._out, flush=True)

    def _ask(self, question: str, host: str, *, withdrawn: bool = True) -> str | None:
        """What the person types; None where the host answers again, so that there is nothing left to ask, if the question is
        to be `withdrawn` then."""
        print(f"  {question} ", end="", file=self._out, flush=True)
        descriptor = self._source.fileno()
        while True:
            ready, _, _ = select.select([descriptor], [], [], self.poll)
            if ready:
                line = os.read(descriptor, 4096)
                if not line:
                    raise ProcedureError(
                        f"{self._name(host)}: nobody answers at the terminal any more; go on when somebody does"
                    )
                return line.decode(errors="replace").strip()
            if withdrawn and self._answers(host):
                print("(the host is back)", file=self._out, flush=True)
                return None

    def _name(self, host: str) -> str:
        name, address = self._names.get(host, host), self._addresses.get(host, "")
        return f"{name} ({address})" if address else name

    # --- what is seen

    def _answers(self, host: str) -> bool:
        """Whether anything answers at the host's address: its toolstack is up, in emergency mode or not."""
        address = self._addresses.get(host)
        if not address:
            raise ProcedureError(f"{self._name(host)}: its address is not known, so it cannot be watched")
        try:
            answer = self._session.transport.send(
                Request(origin_at(self._session.origin, address), "GET", "/", {}, b"")
            )
            answer.read()
        except TransportError:
            return False
        return True

    def power(self, host: str, /) -> str:
        """`running` while it answers on the network. A host that does not is as far as the person was told to bring it."""
        known = self._hosts.setdefault(host, _Host())
        for probe in range(PROBES):
            if probe:
                self._session.clock.sleep(self.poll)
            if self._answers(host):
                self._hosts[host] = _Host()
                return "running"
            if known.stage:
                return known.stage
        return "off"

    def on_disk(self, host: str, /) -> Mapping[str, str] | None:
        """What the person has found in the backup partition; None where they have not looked, or nobody can be asked."""
        if not self.watches:
            return None
        while True:
            typed = self._ask(
                f"Which version does the backup partition of {self._name(host)} hold? At its console: {LOOK}\n"
                f"  ({NONE}: no such partition, or nothing in it; {UNSEEN}: nobody has looked)",
                host,
                withdrawn=False,
            )
            word = (typed or "").lower()
            if word in (NONE, UNSEEN):
                return {"keeps": ""} if word == NONE else None
            if version := _version(word):
                return {"keeps": version}

    # --- what is done

    def wants(self, host: str, choice: str, /) -> None:
        """Learn what is going to be chosen on a host: a person who cannot be asked is told at once."""
        self._wanted[host] = choice

    def _choice(self, host: str) -> Choice:
        """What a person is told to choose on a host."""
        choice = CHOICES[self._wanted.get(host, UPGRADE)]
        said = {"of": f", if it names {self._target}" if self._target else "", "address": self._addresses.get(host, "")}
        follows = tuple(line.format(**said) for line in choice.follows)
        return replace(choice, choose=choice.choose.format(**said), follows=follows)

    def insert_media(self, host: str, release: str, answer_file: bytes = b"", /) -> None:
        self._hosts[host] = _Host(medium=find(release).name, unattended=bool(answer_file))

    def eject_media(self, host: str, /) -> None:
        self._hosts[host] = _Host()
        self._tell(f"{self._name(host)}:", ["Choose nothing on its screen.", "Take the medium out, and switch it off."])

    def power_off(self, host: str, /) -> None:
        self._tell(f"{self._name(host)}:", ["Switch it off, by its power button."])

    def power_on(self, host: str, /) -> None:
        known = self._hosts.setdefault(host, _Host())
        if not known.medium:
            known.stage = "starting"
            self._tell(f"{self._name(host)}:", ["Switch it on, with no medium in its drive."])
            return
        lines = [
            "If its installer is at work already, let it end, and leave out the rest.",
            "See that it is switched off.",
            f"Put the medium of {known.medium} into its drive. Its first screen names that release.",
            "Switch it on, and let it boot the medium.",
        ]
        choice = self._choice(host)
        if known.unattended:
            lines[3] = "Switch it on, and let it boot the medium with the answer file (boot option answerfile=URL)."
            known.stage = "installing"
        elif not choice.otherwise:  # it does not matter what the installer finds
            lines += [choice.choose, choice.never, *choice.follows]
            known.stage = "installing"
        elif self.watches:
            lines += ["Go on to the screen that asks what to do. Choose nothing yet.", choice.never]
        else:
            lines += [choice.choose, choice.never, choice.otherwise]
            known.stage = "starting"
        self._tell(f"{self._name(host)} is to be {choice.purpose}:", lines)
        if not known.stage:
            self._ask_what_it_found(host, known)

    def _ask_what_it_found(self, host: str, known: _Host) -> None:
        """Until it is known what stands on the screen, or there is nothing left to see there."""
        while not known.stage:
            typed = self._ask(
                f'Which version stands in the line "Upgrade ..."? ({NONE}: no such line; {AT_WORK}: it installs already)',
                host,
            )
            if typed is None:
                return
            word = re.sub(r"^[^\d]*(?=\d)", "", typed.lower())
            if word in (NONE, AT_WORK):
                known.stage = "installer" if word == NONE else "installing"
            elif word:
                known.found = _version(word)
                known.stage = "installer" if known.found else ""

    def identified(self, host: str, /) -> str:
        return self._hosts[host].found or "nothing that it upgrades"

    def offers(self, host: str, /) -> Sequence[str]:
        known = self._hosts[host]
        return (*(["upgrade"] if known.found else []), "fresh", *(["restore"] if known.held else []))

    def restores(self, host: str, /) -> str:
        known = self._hosts[host]
        while not known.held:
            typed = self._ask(
                f'Which version stands in the line "Restore ... from backup"? ({NONE}: no such line)', host
            )
            if typed is None or typed.lower() == NONE:
                return ""
            known.held = _version(re.sub(r"^[^\d]*(?=\d)", "", typed.lower()))
        return known.held

    def answer(self, host: str, choice: str, /) -> None:
        if choice == FRESH and self._wanted.get(host) != FRESH:
            raise ProcedureError(
                f"{self._name(host)}: {choice} destroys settings and guests; nobody is told to choose it"
            )
        self._wanted[host] = choice
        told = self._choice(host)
        self._tell(f"{self._name(host)}:", [told.choose, told.never, *told.follows])
        self._hosts[host].stage = "installing"


def _version(typed: str) -> str:
    """The product version that was typed; empty where it is none."""
    try:
        return ".".join(str(number) for number in parse_version(typed))
    except ValueError:
        return ""
