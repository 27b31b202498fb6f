"""The physical acts of a procedure: what somebody does to a machine that no call of XenAPI can do.

A `Hands` may be a person at a terminal, or the machine room of the fake (`pool.hands`). Hosts are named by their uuid. There
are two routes of installing: `media`, where hands boot a medium, and `plugin`, where hosts fetch and boot an installer by
themselves, and there is nothing for hands to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn, Protocol

from ..errors import ProcedureError

if TYPE_CHECKING:
    from ..session import Session
    from .plan import Plan

MEDIA, PLUGIN = "media", "plugin"
UPGRADE, FRESH, RESTORE = "upgrade", "fresh", "restore"
"""What an installer offers: to preserve settings and guests, to wipe the host, to put its backup partition back."""


class Hands(Protocol):
    """Acts on machines. What cannot be done raises `ProcedureError`, which says why.

    Beside these, hands may have: `route` (`media` if not); `poll`, seconds between two looks at what they do; `watches`,
    false where they cannot see an installer's screen; `talks`, true where they write to the terminal; `knows(plan)`,
    which is told the plan before anything is done; `wants(host, choice)`, which is told before a medium goes in which of the
    offers is going to be chosen; and `on_disk(host)`, what there is on a host's disk: the members of `OnDisk`, or None.
    """

    def insert_media(self, host: str, release: str, answer_file: bytes = b"", /) -> None:
        """Put the installation medium of `release` (a product version) into the host's drive. With an answer file it asks
        nothing."""

    def eject_media(self, host: str, /) -> None:
        """Take the medium out."""

    def power_on(self, host: str, /) -> None:
        """Switch on; the host boots the medium in its drive, else its disk."""

    def power_off(self, host: str, /) -> None:
        """Cut the power."""

    def power(self, host: str, /) -> str:
        """What can be seen: `off`, `starting`, `installer`, `installing`, `running` or `stopping`."""

    def identified(self, host: str, /) -> str:
        """The product version of the installation that the installer on screen found."""

    def offers(self, host: str, /) -> Sequence[str]:
        """What the installer on screen offers: `upgrade` (preserves settings and VMs), `fresh`, `restore`."""

    def restores(self, host: str, /) -> str:
        """The product version in the backup partition that the installer on screen offers to restore; empty where none."""

    def answer(self, host: str, choice: str, /) -> None:
        """Choose one of the offers; the installer does it and boots the host from its disk."""


def wants(hands: object, host: str, choice: str) -> None:
    """Tell hands what is going to be chosen on a host, where they care."""
    told = getattr(hands, "wants", None)
    if told is not None:
        told(host, choice)


@dataclass(frozen=True)
class OnDisk:
    """What somebody who looks at a host's disk sees: the product versions of what is `installed` and of what the backup
    partition `keeps`, empty where nothing whole is there. `database` is the uuid of the pool whose database is kept there,
    empty where none is. None is what they did not look at."""

    keeps: str
    installed: str | None = None
    database: str | None = None


def on_disk(hands: object, host: str) -> OnDisk | None:
    """What there is on a host's disk; None where these hands cannot see it."""
    look = getattr(hands, "on_disk", None)
    seen = None if look is None else look(host)
    return None if seen is None else OnDisk(**seen)


def route_of(hands: object) -> str:
    """How hosts are installed with these hands: `media`, also where nobody is named, or `plugin`."""
    return str(getattr(hands, "route", MEDIA))


def assert_route(plan: Plan, hands: object) -> None:
    """Raise `ProcedureError` where a plan goes another way than these hands do."""
    if plan.route != route_of(hands):
        named = {MEDIA: "operator (or fake:TOKEN)", PLUGIN: "plugin:INSTALL_URL"}
        raise ProcedureError(
            f"this {plan.procedure} was planned for --hands {named[plan.route]}: give that, or plan the rest anew"
        )


class NoHands:
    """Nobody: for procedures that do everything by calls. Raises `ProcedureError` whatever is asked of it."""

    why: ClassVar[str] = "nobody is there who could act on a machine: this is done by calls alone"

    def _refused(self, host: str, *what: object) -> NoReturn:
        raise ProcedureError(self.why)

    insert_media = eject_media = power_on = power_off = power = identified = offers = restores = answer = _refused


def hands_for(text: str, session: Session) -> Hands:
    """The hands that `text` names: `operator`, `plugin:INSTALL_URL` or `fake:TOKEN`, or `none`. Raises `ValueError` for
    others."""
    kind, _, rest = text.partition(":")
    if text == "operator":
        from .hands_operator import Operator

        return Operator(session)
    if kind == "plugin" and rest:
        from .hands_plugin import PluginHands

        return PluginHands(session, rest)
    if text == "none":
        return NoHands()
    if kind == "fake" and rest:
        from .hands_fake import FakeHands

        return FakeHands(session, rest)
    raise ValueError(f"hands: {text!r} is none of operator, plugin:INSTALL_URL and fake:TOKEN")
