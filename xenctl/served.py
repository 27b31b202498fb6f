"""What a host's release serves: calls that are newer than the host are refused before anything is sent.

The refusal is the one that the host itself would give, with the same code, so that whoever tries a message and goes
another way without it needs one `except`. A message that the data model does not know is let through: the host may be
newer than the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .datamodel import Message, load
from .errors import Failure, failure
from .releases import Release, has_removed, known, parameters, serves
from .releases import find as named

OFF = "check_release=False sends it all the same"


def find(method: str) -> Message | None:
    """The message that `method` names, in its asynchronous form too; None for one that the data model does not know."""
    return load().message(method.removeprefix("Async."))


def refusal(release: Release, method: str, args: Sequence[Any]) -> Failure | None:
    """Why a host of `release` does not take `method` with `args` (without the session): None where it does.

    `MESSAGE_METHOD_UNKNOWN` for a message that came later, `MESSAGE_REMOVED` for one that went,
    `MESSAGE_PARAMETER_COUNT_MISMATCH` where the last arguments are of later releases.
    """
    message = find(method)
    if message is None:
        return None
    if not serves(release, message):
        why = f"{release.name} does not have it yet{_since(message)}"
        return failure(["MESSAGE_METHOD_UNKNOWN", method], f"{why}; nothing was sent ({OFF})")
    if has_removed(release, message):
        return failure(["MESSAGE_REMOVED"], f"{release.name} no longer has {method}; nothing was sent ({OFF})")
    taken = len(parameters(release, message))
    if taken < len(args) <= len(message.params):
        names = ", ".join(param.name for param in message.params[taken : len(args)])
        note = f"{release.name} does not know {names}; nothing was sent ({OFF})"
        return failure(["MESSAGE_PARAMETER_COUNT_MISMATCH", method, str(taken), str(len(args))], note)
    return None


def later(release: Release, what: str, since: str) -> Failure | None:
    """Why a host of `release` does not take `what`, which is no message and came with `since`: None where it does."""
    first = named(since)
    if release >= first:
        return None
    note = f"{release.name} does not have it yet, {first.name} is the first that does; nothing was sent ({OFF})"
    return failure(["MESSAGE_METHOD_UNKNOWN", what], note)


def _since(message: Message) -> str:
    """Which release is the first that serves a message."""
    return next((f", {release.name} is the first that does" for release in known() if serves(release, message)), "")
