"""Secrets: passwords that other objects refer to by uuid."""

from __future__ import annotations

from ..call import Call
from . import verbs_of
from .generic import make

verb = verbs_of("secret")


@verb("*")
def introduce(call: Call, uuid: str, value: str, other_config: dict[str, str]) -> str:
    """A secret of another pool under the uuid that it has there."""
    return make(call, "secret", {"value": value, "other_config": other_config}, uuid=uuid).ref
