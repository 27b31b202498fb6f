"""Passwords in the configuration of storage: they become secrets, which the configuration names by their uuids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import rules
from .call import Call, refuse

if TYPE_CHECKING:
    from .store import Row

SUFFIX = "password_secret"


def assert_not_reserved(call: Call, config: dict[str, str]) -> None:
    """Raise for a key that only xapi itself gives to plugins, as releases since 6.5 do."""
    if "SRmaster" in config and call.at_least(rules.CREAM):
        raise refuse("VALUE_NOT_SUPPORTED", "SRmaster", config["SRmaster"], "This key is for internal use only")


def to_secrets(call: Call, config: dict[str, str]) -> dict[str, str]:
    """`config` with each password moved to a secret; as it is where the release has no secrets."""
    if "secret" not in call.db.tables:
        return dict(config)
    out = {}
    for key, value in config.items():
        if key.endswith("password"):
            out[f"{key}_secret"] = make_secret(call, value)["uuid"]
        else:
            out[key] = value
    return out


def duplicated(call: Call, config: dict[str, str]) -> dict[str, str]:
    """`config` with a secret of its own for each that it names; up to 6.2 connections shared them. Raises `UUID_INVALID` for
    one that is not there."""
    if not call.at_least(rules.CREAM):
        return dict(config)
    return {
        key: make_secret(call, call.db.identified("secret", value)["value"])["uuid"] if key.endswith(SUFFIX) else value
        for key, value in config.items()
    }


def clean_out(call: Call, config: dict[str, str]) -> None:
    """Destroy the secrets that `config` names."""
    for key, uuid in config.items():
        found = call.db.by_uuid.get(uuid) if key.endswith(SUFFIX) else None
        if found is not None and found[0] == "secret":
            call.db.delete(call.db.get(*found))


def make_secret(call: Call, value: str) -> Row:
    """A new secret."""
    return call.db.create("secret", call.pool.new_ref(), {"uuid": call.pool.new_uuid(), "value": value})
