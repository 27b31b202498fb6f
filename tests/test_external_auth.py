"""A directory for authentication: hosts that join its domain and leave it, and users who may log in meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenctl.errors import Failure

Make = Callable[..., Any]
CONFIG = {"user": "Administrator", "pass": "secret"}
DOMAIN = "example.com"


@pytest.fixture
def c(calls: Make) -> Any:
    """Three hosts of the newest release."""
    return calls(release="8.4", hosts=3)


def pool_of(c: Any) -> str:
    return str(c.pool.store.pool().ref)


def enable(c: Any, config: dict[str, str] | None = None, domain: str = DOMAIN, kind: str = "AD") -> Any:
    return c("pool.enable_external_auth", pool_of(c), CONFIG if config is None else config, domain, kind)


def refusal(c: Any, config: dict[str, str] | None = None, domain: str = DOMAIN, kind: str = "AD") -> list[str]:
    args = (pool_of(c), CONFIG if config is None else config, domain, kind)
    return list(c.refused("pool.enable_external_auth", *args))


def kinds(c: Any) -> list[tuple[str, str]]:
    """The directory that each host uses."""
    rows = c.pool.store.table("host").values()
    return [(row["external_auth_type"], row["external_auth_service_name"]) for row in rows]


def test_users_of_the_directory_log_in_once_the_pool_uses_it(c: Any) -> None:
    """If they are subjects; when it no longer does, they are logged out."""
    sid = c.pool.directory.add("alice", password="wonder")
    login = ("session.login_with_password", ["alice", "wonder"])
    with pytest.raises(Failure, match="SESSION_AUTHENTICATION_FAILED"):
        c.pool.dispatch(*login)
    enable(c)
    assert kinds(c) == [("AD", DOMAIN)] * 3
    subject = c("subject.create", {"subject_identifier": sid, "other_config": {}})
    c("subject.add_to_roles", subject, c("role.get_by_name_label", "read-only")[0])
    session = c.pool.dispatch(*login)
    assert c.pool.dispatch("VM.get_all", [session]) == c("VM.get_all")
    c("pool.disable_external_auth", pool_of(c), {})
    assert kinds(c) == [("", "")] * 3
    with pytest.raises(Failure, match="SESSION_INVALID"):
        c.pool.dispatch("VM.get_all", [session])
    assert c("VM.get_all") is not None


@pytest.mark.parametrize(
    ("release", "kept"),
    [
        ("5.6", {"domain", "user", "ou"}),
        ("8.4", {"domain", "user", "ou", "workgroup", "netbios_name", "machine_pwd_last_change_time"}),
    ],
)
def test_what_a_host_keeps_of_its_configuration(calls: Make, release: str, kept: set[str]) -> None:
    """Never the password; it all goes when the host leaves."""
    c = calls(release=release)
    enable(c, {**CONFIG, "ou": "servers"})
    host = c.host("host1")
    assert set(host["external_auth_configuration"]) == kept
    assert "secret" not in host["external_auth_configuration"].values()
    c("pool.disable_external_auth", pool_of(c), CONFIG)
    assert host["external_auth_configuration"] == {}


WRONG: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "no user": ({"pass": "secret"}, DOMAIN, ["", "enable requires user"]),
    "no password": ({"user": "Administrator"}, DOMAIN, ["", "enable requires pass"]),
    "wrong password": (
        {**CONFIG, "pass": "x"},
        DOMAIN,
        ["_WRONG_CREDENTIALS", "bad username or authentication information"],
    ),
    "nobody": ({**CONFIG, "user": "x"}, DOMAIN, ["_WRONG_CREDENTIALS", "bad username or authentication information"]),
    "other domain": (CONFIG, "other.com", ["_DOMAIN_LOOKUP_FAILED", "Failed to look up domain other.com workgroup"]),
    "two domains": (
        {**CONFIG, "domain": "other.com"},
        DOMAIN,
        ["", "if present, config:domain must match service-name."],
    ),
    "old spelling": (
        {**CONFIG, "user": "EXAMPLE\\Administrator"},
        DOMAIN,
        [
            "",
            "SAM format for user detected in 'EXAMPLE\\Administrator'. This is not supported, please retry using UPN format",
        ],
    ),
    "long name": ({**CONFIG, "netbios-name": "x" * 16}, DOMAIN, ["", "netbios-name exceeds 15 characters"]),
    "number": ({**CONFIG, "netbios-name": "123"}, DOMAIN, ["", "hostname '123' cannot contain only digits."]),
}


@pytest.mark.parametrize("flaw", WRONG)
def test_a_wrong_configuration_has_its_own_error_and_no_host_joins(c: Any, flaw: str) -> None:
    """The pool's error names the host that failed; a host's own has no host."""
    config, domain, (code, text) = WRONG[flaw]
    master = c.host("host1").ref
    assert refusal(c, config, domain) == [f"POOL_AUTH_ENABLE_FAILED{code}", master, text]
    assert kinds(c) == [("", "")] * 3
    refused = c.refused("host.enable_external_auth", c.host("host2").ref, config, domain, "AD")
    assert refused == [f"AUTH_ENABLE_FAILED{code}", text]


def test_older_releases_say_it_in_other_words(calls: Make) -> None:
    c = calls(release="8.2")
    text = "enable requires two config params: user and pass."
    assert refusal(c, {}) == ["POOL_AUTH_ENABLE_FAILED", c.host("host1").ref, text]
    enable(c, {**CONFIG, "user": "EXAMPLE\\Administrator"})


@pytest.mark.parametrize(("kind", "error"), [("LDAP", "LDAP"), ("", "")])
def test_a_directory_of_no_known_type(c: Any, kind: str, error: str) -> None:
    assert refusal(c, kind=kind) == ["AUTH_UNKNOWN_TYPE", error]
    assert refusal(c, kind="PAM")[0] == "NOT_IMPLEMENTED"


def test_a_pool_joins_once(c: Any) -> None:
    """One host of it that has joined is enough; that host's own error names the domain."""
    host = c.host("host2").ref
    c("host.enable_external_auth", host, CONFIG, DOMAIN, "AD")
    assert refusal(c) == ["POOL_AUTH_ALREADY_ENABLED", host]
    assert c.refused("host.enable_external_auth", host, CONFIG, DOMAIN, "AD") == ["AUTH_ALREADY_ENABLED", "AD", DOMAIN]


def test_two_hosts_of_one_name_do_not_join(c: Any) -> None:
    c.pool.store.write(c.host("host3"), hostname="host2")
    text = "At least two hosts in the pool have the same hostname"
    assert refusal(c) == ["POOL_AUTH_ENABLE_FAILED_DUPLICATE_HOSTNAME", c.host("host1").ref, text]


def test_where_one_host_cannot_join_those_that_did_leave_again(c: Any) -> None:
    host = c.host("host3").ref
    c.halt("host3")
    assert refusal(c) == ["POOL_AUTH_ENABLE_FAILED", host, f"HOST_OFFLINE: [ {host} ]"]
    assert kinds(c) == [("", "")] * 3


def test_one_host_that_is_away_keeps_no_other_from_leaving(c: Any) -> None:
    """The error names it, and users stay logged in."""
    enable(c)
    host = c.host("host2").ref
    c.halt("host2")
    refused = c.refused("pool.disable_external_auth", pool_of(c), {})
    assert refused == ["POOL_AUTH_DISABLE_FAILED", host, f"host2: {host}"]
    assert kinds(c) == [("", ""), ("AD", DOMAIN), ("", "")]


def test_with_a_wrong_account_a_host_leaves_all_the_same(c: Any) -> None:
    """It is the domain that did not let it go."""
    enable(c)
    refused = c.refused("pool.disable_external_auth", pool_of(c), {**CONFIG, "pass": "x"})
    text = "host1: bad username or authentication information"
    assert refused == ["POOL_AUTH_DISABLE_FAILED_WRONG_CREDENTIALS", c.host("host1").ref, text]
    assert kinds(c) == [("", "")] * 3
    c("host.disable_external_auth", c.host("host1").ref, {**CONFIG, "pass": "x"})


def test_subjects_whom_the_domain_does_not_know_go(c: Any) -> None:
    """When the pool joins it."""
    known = c.pool.directory.add("alice")
    for sid in (known, "S-1-5-21-9-9-9-1000"):
        c.pool.store.create("subject", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "subject_identifier": sid})
    enable(c)
    assert [c("subject.get_subject_identifier", ref) for ref in c("subject.get_all")] == [known]


def test_operators_are_told_of_hosts_that_differ_from_the_master(c: Any) -> None:
    """By a message for each: xapi has no error for it."""

    def told() -> list[tuple[str, str]]:
        return sorted((row["obj_uuid"], row["body"]) for row in c("message.get_all_records").values())

    c("pool.detect_nonhomogeneous_external_auth", pool_of(c))
    assert told() == []
    host = c.host("host2")
    c("host.enable_external_auth", host.ref, CONFIG, DOMAIN, "AD")
    body = (
        f"host_external_auth_type=AD, host_external_auth_service_name={DOMAIN}, "
        "master_external_auth_type=, master_external_auth_service_name="
    )
    assert told() == [(host["uuid"], body)]
    c("pool.detect_nonhomogeneous_external_auth", pool_of(c))
    assert told() == [(host["uuid"], body)] * 2
    assert {row["name"] for row in c("message.get_all_records").values()} == {"EXTAUTH_IN_POOL_IS_NON_HOMOGENEOUS"}


@pytest.mark.parametrize(("message", "name"), [("local", "Internal auth"), ("ext", "External auth")])
def test_how_many_log_in_at_a_time_is_the_toolstacks_own(c: Any, message: str, name: str) -> None:
    """The field stays, and a toolstack that starts goes by it again."""
    pool, field = c.pool.store.pool(), f"{message}_auth_max_threads"
    before = pool[field]
    c(f"pool.set_{field}", pool.ref, 3)
    assert (c.pool.master.xapi.login_limits, pool[field]) == ({field: 3}, before)
    text = f"The semaphore '{name}' must have at least 1 resource available, requested: 0"
    assert c.refused(f"pool.set_{field}", pool.ref, 0) == ["INTERNAL_ERROR", f'Invalid_argument("{text}")']
    c("host.restart_agent", pool["master"])
    c.until(lambda: c.pool.master.xapi.login_limits == {})
