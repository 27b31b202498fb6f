"""A host that uses a directory service for authentication: joining its domain, and leaving it."""

from __future__ import annotations

import re
from typing import Any

from xenctl.errors import Failure

from .. import hosts, rules
from ..call import Call, refuse
from ..store import Row
from . import message, verbs_of

verb = verbs_of("host")

FIELDS = ("external_auth_type", "external_auth_service_name", "external_auth_configuration")
KNOWN = ("AD",)
LONGEST_NAME = 15
"""Characters that the name of a computer has at most in such a domain."""
ALERT = ("EXTAUTH_IN_POOL_IS_NON_HOMOGENEOUS", 2)
"""Name and priority of what tells that a host's directory is not the master's."""


# --- joining


@verb(*FIELDS, "message.*")
def enable_external_auth(call: Call, host: str, config: dict[str, str], service_name: str, auth_type: str) -> str:
    """The host joins the domain `service_name` by the account that `config` names, whose password is kept nowhere."""
    hosts.reached(call, host)
    row = call.db.get("host", host)
    if row["external_auth_type"]:
        raise refuse("AUTH_ALREADY_ENABLED", row["external_auth_type"], row["external_auth_service_name"])
    if auth_type == "PAM":
        raise refuse("NOT_IMPLEMENTED", "host.enable_external_auth: the fake has no local users to authenticate by PAM")
    if auth_type not in KNOWN:
        raise refuse("AUTH_UNKNOWN_TYPE", auth_type)
    kept = _join(call, row, service_name, config)
    call.db.write(
        row,
        external_auth_type=auth_type,
        external_auth_service_name=service_name,
        external_auth_configuration=kept,
    )
    compare_host(call, row)
    return ""


def _join(call: Call, host: Row, domain: str, config: dict[str, str]) -> dict[str, str]:
    """What is kept of `config` by a host that joins a domain. Raises `AUTH_ENABLE_FAILED...`."""
    modern = call.at_least(rules.NILE)
    _check(host, domain, config, modern=modern)
    directory = call.pool.directory
    if domain != directory.domain:
        raise _failed(f"Failed to look up domain {domain} workgroup", "DOMAIN_LOOKUP_FAILED")
    account = directory.find(config["user"])
    if account is None or account.is_group or account.password != config["pass"]:
        raise _failed("bad username or authentication information", "WRONG_CREDENTIALS")
    if account.suspended:
        raise _failed(f"the account {config['user']} is suspended", "PERMISSION_DENIED")
    unit = {"ou": config["ou"]} if "ou" in config else {}
    if not modern:
        return {"domain": domain, "user": config["user"], **unit}
    return {
        "domain": domain,
        "user": config["user"],
        "workgroup": domain.partition(".")[0].upper(),
        "netbios_name": _computer(host, config),
        "machine_pwd_last_change_time": f"{call.clock.now():.0f}.",
        **unit,
    }


def _check(host: Row, domain: str, config: dict[str, str], *, modern: bool) -> None:
    """What is wrong with the configuration, before any server is asked: since 8.3 with other words than before."""
    missing = [name for name in ("user", "pass") if name not in config]
    if missing:
        raise _failed(
            f"enable requires {missing[0]}" if modern else "enable requires two config params: user and pass."
        )
    if modern and "\\" in config["user"]:
        text = (
            f"SAM format for user detected in '{config['user']}'. This is not supported, please retry using UPN format"
        )
        raise _failed(text)
    if modern and len(config.get("netbios-name", "")) > LONGEST_NAME:
        raise _failed(f"netbios-name exceeds {LONGEST_NAME} characters")
    name = _computer(host, config) if modern else host["hostname"]
    if re.fullmatch("[0-9]*", name):
        raise _failed(f"hostname '{name}' cannot contain only digits.")
    if config.get("domain", domain) != domain:
        raise _failed("if present, config:domain must match service-name.")


def _computer(host: Row, config: dict[str, str]) -> str:
    """The name by which a host is known in the domain. A long one is cut short, and made its own by the host's uuid."""
    name = str(config.get("netbios-name") or host["hostname"].partition(".")[0])
    return name if len(name) <= LONGEST_NAME else f"{name[:7]}-{host['uuid'][:7]}"


def _failed(text: str, why: str = "", action: str = "ENABLE") -> Failure:
    return refuse(f"AUTH_{action}_FAILED{'_' if why else ''}{why}", text)


# --- leaving


@verb(*FIELDS, "message.*")
def disable_external_auth(call: Call, host: str, config: dict[str, str], force: bool) -> str:
    """The host leaves its domain; with an account in `config` the domain forgets it too, and if that fails it has left all
    the same. One that is in none stays as it is."""
    hosts.reached(call, host)
    row = call.db.get("host", host)
    if not row["external_auth_type"]:
        return ""
    call.db.write(row, external_auth_type="", external_auth_service_name="", external_auth_configuration={})
    compare_host(call, row)
    if {"user", "pass"} <= set(config):
        account = call.pool.directory.find(config["user"])
        if account is None or account.is_group or account.password != config["pass"]:
            raise _failed("bad username or authentication information", "WRONG_CREDENTIALS", "DISABLE")
    return ""


# --- whether all use the same


def compare_host(call: Call, host: Row) -> None:
    """Tell operators if a host uses another directory than the master; of the master itself, if any does."""
    master = call.db.get("host", call.db.pool()["master"])
    for row in list(call.db.table("host").values()) if host is master else [host]:
        if _directory(row) != _directory(master):
            body = ", ".join(
                f"{whose}_{field}={row_of[field]}"
                for whose, row_of in (("host", row), ("master", master))
                for field in FIELDS[:2]
            )
            message.create(call, *ALERT, "Host", row["uuid"], body)


def _directory(host: Row) -> tuple[Any, Any]:
    return host["external_auth_type"], host["external_auth_service_name"]
