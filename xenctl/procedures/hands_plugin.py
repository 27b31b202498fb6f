"""Hosts that install themselves: the plugin of 6.0 and later fetches an installer from a URL and sets the boot loader to it.

There are no hands at the machines then. The steps of a plan are `prepare` and `boot-installer`, not `halt` and `install`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ..errors import Failure, ProcedureError
from ..releases import Release, find
from .hands import PLUGIN, NoHands

if TYPE_CHECKING:
    from ..session import Session
    from ..values import Ref
    from .observe import HostFacts, PoolFacts

NAME = "prepare_host_upgrade.py"
SINCE = find("6.0.0")
"""The first release whose hosts have the plugin."""
NEW_LAYOUT, STRICT = find("7.0.0"), find("8.4.0")
"""The first release with the new partitions, and the first whose installer takes no others."""
SCHEMES = ("http", "https", "ftp", "nfs")
ERRORS: Mapping[str, str] = {
    "MISSING_URL": "it was given no URL",
    "INVALID_URL": "there is no installation medium at the URL",
    "INVALID_VER": "the medium at the URL is older than what the host runs",
    "ERROR_PREPARING_HOST": "the installer could not be set up; a host with a fixed address needs a gateway, and a "
    "name server where the URL has a name",
    "UNAUTH_URL": "the server asks for a user and a password: put them into the URL",
    "FORBIDDEN": "the server does not give the medium to this user",
    "NOT_FOUND": "the server has nothing at the URL",
    "PROXY AUTH FAILURE": "a proxy between the host and the server asks for a password",
    "TIMEOUT": "the server does not answer the host in time",
    "REPO_IOERROR": "the medium could not be read",
}
"""What the plugin's errors mean."""
MISSING = frozenset({"XENAPI_MISSING_PLUGIN", "MESSAGE_METHOD_UNKNOWN"})
"""What a host answers that is too old for the plugin, or for any."""
UNSAFE: Mapping[str, str] = {
    "not_enough_space": "its disk is too small for the new partitions",
    "vdi_present": "disks of guests on its local storage are in the way of the new partitions",
    "false": "its local storage is in the way of the new partitions",
    "utility_part_present": "its maker's partition is in the way of the new partitions",
    "legacy_partition_table": "its partition table is of the old kind",
}
"""What stands against new partitions."""


class PluginHands(NoHands):
    """The hands of a plan whose hosts install themselves from `url`. Raises `ValueError` for what is no such URL."""

    route = PLUGIN
    why = "with --hands plugin:URL nobody is at the machines; use --hands operator for this"

    def __init__(self, session: Session, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ValueError(f"hands: plugin:URL takes a URL ({', '.join(SCHEMES)}), not {_shown(url)!r}")
        self._session, self._url = session, url

    @property
    def shown(self) -> str:
        """The URL without user and password."""
        return _shown(self._url)

    def prepare(self, host: Ref, name: str) -> None:  # type: ignore[type-arg]
        """Have a host fetch the installer, and boot it the next time. Raises `ProcedureError`."""
        said = self._ask(host, name, "main")
        if said != "true":
            raise ProcedureError(f"{name} did not prepare itself to install from {self.shown}: it says {said!r}")

    def against(self, pool: PoolFacts, target: Release, *, again: bool = False) -> tuple[list[str], list[str]]:
        """What stands against installing the pool's hosts from the URL, and what is worth saying. Those that run `target`
        already count only where they are installed `again`. Nothing is changed."""
        old = [host for host in pool.hosts.values() if host.release < SINCE]
        if old:
            return [
                f"{host.name} runs {host.version}: hosts install themselves from {SINCE.product_version} on; install it by "
                "hand (--hands operator)"
                for host in old
            ], []
        problems, warnings = list[str](), list[str]()
        for host in pool.hosts.values():
            if host.live and (again or host.version != target.product_version):
                problems += self._against(host, target)
                unsafe = self._unsafe(host, target)
                (problems if target >= STRICT else warnings).extend(unsafe)
        return problems, warnings

    def _against(self, host: HostFacts, target: Release) -> Iterator[str]:
        try:
            said = self._ask(host.ref, host.name, "testUrl")
            versions = self._ask(host.ref, host.name, "getVersion", optional=True)
        except ProcedureError as error:
            yield str(error)
            return
        if said != "true":
            yield f"{host.name} cannot install from {self.shown}: it says {said!r}"
        found = _product_version(versions)
        if found and found != target.product_version:
            yield f"the medium at {self.shown} is of {found}, not of {target.product_version}"

    def _unsafe(self, host: HostFacts, target: Release) -> list[str]:
        if target < NEW_LAYOUT or host.release >= STRICT:
            return []
        try:
            said = self._ask(host.ref, host.name, "testSafe2Upgrade", optional=True)
        except ProcedureError as error:
            return [str(error)]
        return [] if said in ("", "true") else [f"{host.name}: {UNSAFE.get(said, said)}"]

    def _ask(self, host: Ref | str, name: str, function: str, *, optional: bool = False) -> str:  # type: ignore[type-arg]
        """What the plugin says; empty where it is older than this function and that is `optional`."""
        try:
            return self._session.host.call_plugin(host, NAME, function, {"url": self._url})  # type: ignore[arg-type]
        except Failure as error:
            if error.code == "UNKNOWN_XENAPI_PLUGIN_FUNCTION" and optional:
                return ""
            said = meaning(error)
            if not said:
                raise
            raise ProcedureError(f"{name} cannot install from {self.shown}: {said}") from None


def meaning(error: Failure) -> str:
    """Why a host's plugin cannot do what it was asked, in words; empty where the error is not about that. The plugin's own
    code stands third among the parameters."""
    if error.code in MISSING:
        return (
            f"it lacks the plugin {NAME}: hosts install themselves from {SINCE.product_version} on; install it by hand "
            "(--hands operator)"
        )
    if error.code != "XENAPI_PLUGIN_FAILURE":
        return ""
    code = error.params[2] if len(error.params) > 2 else " ".join(error.params)
    server = re.fullmatch(r"REPO_SERVER_ERROR_(\d+)", code)
    if server:
        return f"the server answers with the status {server[1]}"
    return ERRORS.get(code, f"the plugin says {code}")


def _product_version(text: str) -> str:
    """The product version in what `getVersion` says; empty where it says none."""
    try:
        found = json.loads(text)["product-version"]
    except (ValueError, TypeError, KeyError):
        return ""
    return str(found)


def _shown(url: str) -> str:
    """A URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
