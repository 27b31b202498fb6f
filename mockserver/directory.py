"""A directory service outside the pool, whose users may log in once a host uses it for authentication.

A pool has one that only its administrator is in and no host uses. `add` enters users and groups; hosts use it once
somebody calls `pool.enable_external_auth`, or by `connect`. Who may log in then, and with which roles, are the pool's own
subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .journal import Kept
from .store import Store

if TYPE_CHECKING:
    from .pool import MockPool


@dataclass(frozen=True)
class Account:
    """A user or group of the directory: its name, its identifier, and the identifiers of all groups that it is in."""

    name: str
    sid: str
    password: str = ""
    groups: tuple[str, ...] = ()
    is_group: bool = False
    suspended: bool = False

    def information(self, domain: str) -> dict[str, str]:
        """What a host of `domain` is told of an account, and what a subject's `other_config` holds of it."""
        number = self.sid.rpartition("-")[2]
        known = {"subject-name": self.full_name(domain), "subject-gid": number, "subject-sid": self.sid}
        if self.is_group:
            return {**known, "subject-is-group": "true"}
        return {
            **known,
            "subject-is-group": "false",
            "subject-displayname": known["subject-name"],
            "subject-gecos": "",
            "subject-uid": number,
            "subject-upn": f"{self.name}@{domain}",
            "subject-account-disabled": "true" if self.suspended else "false",
            "subject-account-expired": "false",
            "subject-account-locked": "false",
            "subject-password-expired": "false",
        }

    def full_name(self, domain: str) -> str:
        r"""The name as Windows writes it: `EXAMPLE\alice`."""
        return f"{domain.partition('.')[0].upper()}\\{self.name}"


DOMAIN = "S-1-5-21-1-2-3"
ADMINISTRATOR = Account("Administrator", f"{DOMAIN}-500", "secret")
"""Who is in every directory, so that hosts can join it."""


class Directory(Kept):
    """The users and groups of a directory service, by name."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {ADMINISTRATOR.name: ADMINISTRATOR}
        self.domain = "example.com"

    def add(
        self,
        name: str,
        *,
        password: str = "",
        groups: tuple[str, ...] = (),
        is_group: bool = False,
        suspended: bool = False,
    ) -> str:
        """Enter a user, in the `groups` of these names, or a group; returns its identifier. Raises ValueError for a name
        that is taken, KeyError for a group that is not there."""
        if name in self.accounts:
            raise ValueError(f"{name!r} is in the directory already")
        sid = f"{DOMAIN}-{999 + len(self.accounts)}"
        direct = [self.accounts[group] for group in groups]
        closure = dict.fromkeys(sid for group in direct for sid in (group.sid, *group.groups))
        self.accounts[name] = Account(name, sid, password, tuple(closure), is_group, suspended)
        return sid

    def connect(self, pool: MockPool, domain: str = "example.com") -> None:
        """Make every host of `pool` use this directory, as `pool.enable_external_auth` would."""
        self.domain = domain
        for host in pool.store.table("host").values():
            pool.store.write(host, external_auth_type="AD", external_auth_service_name=domain)

    def find(self, name: str) -> Account | None:
        r"""The account of a name, which may carry the domain: `alice@example.com`, `EXAMPLE\alice`."""
        plain = name.rpartition("\\")[2].partition("@")[0]
        return self.accounts.get(plain)

    def by_sid(self, sid: str) -> Account | None:
        """The account with an identifier."""
        return next((account for account in self.accounts.values() if account.sid == sid), None)


def subjects_of(store: Store, account: Account) -> list[str]:
    """The references of the pool's subjects that are this account, or groups that it is in."""
    sids = {account.sid, *account.groups}
    return [row.ref for row in store.table("subject").values() if row["subject_identifier"] in sids]
