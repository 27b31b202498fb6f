"""What the pool notes of calls, and what it sends to others to try them out."""

from __future__ import annotations

from .. import rules
from ..call import Call, Steps, refuse
from . import verbs_of

verb = verbs_of("pool")


@verb()
def audit_log_append(call: Call, line: str) -> str:
    """A member's note about a call, as it is."""
    call.pool.audit.append(line)
    return ""


@verb()
def send_test_post(call: Call, host: str, port: int, body: str) -> Steps:
    """Send `body` to a server beside the pool; returns what that answers, which is nothing."""
    yield call.pool.durations.device
    found = call.pool.balancers.servers.get((host, port))
    if found is None or not found.up:
        raise refuse("INTERNAL_ERROR", 'Stunnel.Stunnel_error("Connection refused")')
    found.received.append(body)
    return ""


@verb()
def test_archive_target(call: Call, ref: str, config: dict[str, str]) -> str:
    """Archives went with the protection of VMs in 6.2; there are none here to be tried before."""
    call.db.get("pool", ref)
    if call.at_least(rules.CLEARWATER):
        raise refuse("MESSAGE_REMOVED")
    raise refuse("NOT_IMPLEMENTED", "pool.test_archive_target")
