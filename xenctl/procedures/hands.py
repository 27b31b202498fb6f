"""The physical acts of a procedure: what somebody does to a machine that no call of XenAPI can do.

A `Hands` may be a person at a terminal, an unattended installation, or the machine room of the fake (`pool.hands`).
Hosts are named by their uuid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol

from ..errors import ProcedureError

if TYPE_CHECKING:
    from ..session import Session


class Hands(Protocol):
    """Acts on machines. What cannot be done raises an exception that says why."""

    def insert_media(self, host: str, release: str, /) -> None:
        """Put the installation medium of `release` (a product version) into the host's drive."""

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


class NoHands:
    """Nobody: for procedures that do everything by calls. Raises `ProcedureError` whatever is asked of it."""

    def _refused(self, host: str, *what: str) -> NoReturn:
        raise ProcedureError("nobody is there who could act on a machine: this is done by calls alone")

    insert_media = eject_media = power_on = power_off = power = identified = offers = restores = answer = _refused


def hands_for(text: str, session: Session) -> Hands:
    """The hands that `text` names: `operator`, `plugin:INSTALL_URL` or `fake:TOKEN`, or `none`. Raises `ValueError` for
    others."""
    kind, _, rest = text.partition(":")
    if text == "none":
        return NoHands()
    if kind == "fake" and rest:
        from .hands_fake import FakeHands

        return FakeHands(session, rest)
    raise ValueError(f"hands: {text!r} is none of operator, plugin:INSTALL_URL and fake:TOKEN")
