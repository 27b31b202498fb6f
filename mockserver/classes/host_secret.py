"""The steps by which one host comes to another secret of its pool, as the master tells it while it rotates the secret.

A host that takes both has both in files beside the secret that it sends; so whoever starts in the middle goes on with both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import hosts, trust
from ..call import Call, refuse
from ..machine.host import NEW_SECRET, OLD_SECRET
from . import verbs_of

if TYPE_CHECKING:
    from ..machine.host import System

verb = verbs_of("host")

CHECKPOINT = "/var/lib/xcp/psr_cp"
"""How far a rotation has come, on the master alone."""


def backups(system: System) -> tuple[str, str]:
    """The old and the new secret, as a host keeps them. Raises `INTERNAL_ERROR` where it has none."""
    try:
        return system.files[OLD_SECRET].decode(), system.files[NEW_SECRET].decode()
    except KeyError:
        raise refuse("INTERNAL_ERROR", "failed to read backups") from None


def keep(system: System, old: str, new: str) -> None:
    trust.change(system, {OLD_SECRET: old.encode(), NEW_SECRET: new.encode()})


def _assert_backups(system: System, old: str, new: str) -> None:
    if backups(system) != (old, new):
        raise refuse("INTERNAL_ERROR", "backups don't match")


def _assert_no_checkpoint(system: System) -> None:
    if system.role != "master" and CHECKPOINT in system.files:
        raise refuse("INTERNAL_ERROR", "pool member should not have a checkpoint")


def _assert_no_backups(system: System) -> None:
    if OLD_SECRET in system.files:
        raise refuse("INTERNAL_ERROR", "pool member should have no backups")


@verb()
def notify_accept_new_pool_secret(call: Call, host: str, old_ps: str, new_ps: str) -> str:
    """From now on the host takes both, and sends the old one."""
    system = hosts.reached(call, host).machine.system
    _assert_no_checkpoint(system)
    if len(system.secrets) > 1:
        _assert_backups(system, old_ps, new_ps)
        if system.secrets != (old_ps, new_ps):
            raise refuse("INTERNAL_ERROR", "notify_new: existing pool secrets are inconsistent")
        return ""
    if system.pool_secret != old_ps:
        raise refuse("INTERNAL_ERROR", "notify_new: old pool secret doesn't match")
    if system.role != "master":
        _assert_no_backups(system)
    keep(system, old_ps, new_ps)
    return ""


@verb()
def notify_send_new_pool_secret(call: Call, host: str, old_ps: str, new_ps: str) -> str:
    """From now on the host sends the new one, and still takes both."""
    system = hosts.reached(call, host).machine.system
    _assert_no_checkpoint(system)
    _assert_backups(system, old_ps, new_ps)
    if set(system.secrets) != {old_ps, new_ps}:
        raise refuse("INTERNAL_ERROR", "notify_send: runtime secrets don't match")
    system.pool_secret = new_ps
    return ""


@verb()
def cleanup_pool_secret(call: Call, host: str, old_ps: str, new_ps: str) -> str:
    """From now on the host takes the new one alone."""
    system = hosts.reached(call, host).machine.system
    _assert_no_checkpoint(system)
    clean_up(system, old_ps, new_ps)
    return ""


def clean_up(system: System, old: str, new: str) -> None:
    """Forget the old secret, and on a master how far the rotation came."""
    if len(system.secrets) == 1:
        if system.pool_secret != new:
            text = "cleanup_internal: host has been cleaned up, but pool secret doesn't match"
            raise refuse("INTERNAL_ERROR", text)
        _assert_no_backups(system)
        return
    if system.secrets != (new, old):
        raise refuse("INTERNAL_ERROR", "cleanup_internal: runtime secrets don't match")
    _assert_backups(system, old, new)
    trust.change(system, dict.fromkeys((OLD_SECRET, NEW_SECRET, CHECKPOINT)))


@verb()
def update_pool_secret(call: Call, host: str, pool_secret: str) -> str:
    """The host takes another secret, as one that joins a pool does; nobody else is told."""
    hosts.reached(call, host).machine.system.pool_secret = pool_secret
    return ""
