"""Secrets: values that only their uuid tells of."""

from __future__ import annotations

from ..call import Call
from . import verbs_of

verb = verbs_of("secret")


@verb("*")
def introduce(call: Call, uuid: str, value: str, other_config: dict[str, str]) -> str:
    """A secret of a uuid that is given, as a host that joins brings it along."""
    fields = {"uuid": uuid, "value": value, "other_config": other_config}
    return call.db.create("secret", call.pool.new_ref(), fields).ref
