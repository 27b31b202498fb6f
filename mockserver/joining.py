"""Whether a host may join a pool: what is compared, in the order in which xapi looks, as a table of checks.

Each check looks at the joining host's own database and at the pool's, and says why not. Fields and tables that a release
lacks cannot differ. From 7.3 on a host may come with its management interface on a VLAN; before, only on a bare card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from xenctl.datamodel import load
from xenctl.errors import Failure

from . import editions, homogeneous, licence, pifs, rules
from .call import Call, refuse
from .storage_drivers import is_tools_sr
from .store import Row, Store

RESTRICTED_SIZE = 3
"""Hosts that a pool has at the most where its licence restricts that."""
NBD = ("nbd", "insecure_nbd")
IGNORES_CASE = load().order("24.33.0")


@dataclass(frozen=True)
class Join:
    """A host, the only one of the pool of `call`, that asks for a place in the pool that `there` is the database of."""

    call: Call
    me: Row
    there: Store
    forced: bool

    @property
    def here(self) -> Store:
        return self.call.db

    @property
    def master(self) -> Row:
        return self.there.get("host", self.there.pool()["master"])

    @property
    def software(self) -> tuple[dict[str, str], dict[str, str]]:
        """What the host and the master say of their software."""
        return self.me["software_version"], self.master["software_version"]


def assert_possible(join: Join) -> None:
    """Raise the first reason why the host may not join."""
    release = join.here.release.order
    for check in CHECKS:
        for refused in check(join) if LATER.get(check, release) <= release else ():
            raise refused


# --- the two pools


def _size(join: Join) -> Iterator[Failure]:
    if licence.restricted(join.call, "Pool_size") and len(join.there.table("host")) >= RESTRICTED_SIZE:
        yield refuse("LICENCE_RESTRICTION", "Pool_size")


def _has_management(join: Join) -> Iterator[Failure]:
    if pifs.management(join.here, join.me) is None:
        yield refuse("HOST_STILL_BOOTING")


def _ha_here(join: Join) -> Iterator[Failure]:
    if join.here.pool().get("ha_enabled"):
        yield refuse("HA_IS_ENABLED")


def _clustered(join: Join) -> Iterator[Failure]:
    for row in join.here.table("Cluster_host").values():
        if row["host"] == join.me.ref and row["enabled"]:
            yield refuse("CLUSTERING_ENABLED", row.ref)


def _cluster_there(join: Join) -> Iterator[Failure]:
    """A cluster that takes in every host needs one address of this one on its network."""
    there = join.there
    member = next(iter(there.table("Cluster_host").values()), None)
    pif = there.find("PIF", member["PIF"]) if member is not None else None
    if member is None or pif is None or not there.get("Cluster", member["cluster"])["pool_auto_join"]:
        return
    if pif["VLAN"] > 0 and not pif["management"]:
        yield refuse("POOL_JOINING_POOL_CANNOT_ENABLE_CLUSTERING_ON_VLAN_NETWORK", pif["VLAN"])
    bonds = [there.get("Bond", bond) for bond in pif.get("bond_master_of", ())]
    beneath = [there.get("PIF", slave) for bond in bonds for slave in bond["slaves"]] or [pif]
    bridges = {there.get("network", row["network"])["bridge"] for row in beneath}
    mine = [join.here.get("PIF", ref) for ref in join.me["PIFs"]]
    with_address = [p for p in mine if p["IP"] and join.here.get("network", p["network"])["bridge"] in bridges]
    if len(with_address) != 1:
        yield refuse("POOL_JOINING_HOST_MUST_HAVE_ONLY_ONE_IP_ON_CLUSTERING_NETWORK")


def _ha_there(join: Join) -> Iterator[Failure]:
    if join.there.pool().get("ha_enabled"):
        yield refuse("HA_IS_ENABLED")


def _not_myself(join: Join) -> Iterator[Failure]:
    if join.master["uuid"] == join.me["uuid"]:
        alone = len(join.here.table("host")) == 1
        text = "Host cannot become slave of itself" if alone else "Host is already part of a pool"
        yield refuse("OPERATION_NOT_ALLOWED", text)


def _alone(join: Join) -> Iterator[Failure]:
    if len(join.here.table("host")) > 1:
        yield refuse("JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS")


# --- what is on the host


def _guests(join: Join) -> Iterator[Row]:
    return (vm for vm in join.here.table("VM").values() if not vm["is_control_domain"])


def _no_running_vms(join: Join) -> Iterator[Failure]:
    if join.here.release.order <= rules.GEORGE:
        if any(vm["power_state"] != "Halted" for vm in _guests(join)):
            yield refuse("JOINING_HOST_CANNOT_HAVE_RUNNING_OR_SUSPENDED_VMS")
    elif any(vm["power_state"] == "Running" for vm in _guests(join)):
        yield refuse("JOINING_HOST_CANNOT_HAVE_RUNNING_VMS")


def _no_busy_vms(join: Join) -> Iterator[Failure]:
    if any(vm["current_operations"] for vm in join.here.table("VM").values()):
        yield refuse("JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS")


def _no_guidance(join: Join) -> Iterator[Failure]:
    for row in (join.me, join.master):
        if row.get("pending_guidances"):
            yield refuse("HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", row.ref)


def _compatible(join: Join) -> Iterator[Failure]:
    return homogeneous.incompatible(join.here.release.order, *join.software)


def _homogeneous(join: Join) -> Iterator[Failure]:
    if not join.forced:
        yield from homogeneous.other_build(join.here.release.order, *join.software)
        yield from homogeneous.other_processors(join.here, join.me, join.there, join.master)


def _no_shared_storage(join: Join) -> Iterator[Failure]:
    if any(sr["shared"] and not is_tools_sr(sr) for sr in join.here.table("SR").values()):
        yield refuse("JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS")


# --- the network


def _bare_cards(join: Join) -> Iterator[Failure]:
    """What was asked before 7.3: up to 6.5 of the management interface only, then of all."""
    order, bare = join.here.release.order, {pif.ref for pif in pifs.physical_pifs(join.here, join.me)}
    managing = pifs.management(join.here, join.me)
    if order < rules.DUNDEE:
        if managing is not None and managing.ref not in bare:
            yield refuse("POOL_JOINING_HOST_MUST_HAVE_PHYSICAL_MANAGEMENT_NIC")
    elif order < rules.INVERNESS and not bare.issuperset(join.me["PIFs"]):
        yield refuse("POOL_JOINING_HOST_MUST_ONLY_HAVE_PHYSICAL_PIFS")


def _no_bonds(join: Join) -> Iterator[Failure]:
    for table, what in (("Bond", "BONDS"), ("tunnel", "TUNNELS"), ("network_sriov", "NETWORK_SRIOVS")):
        if join.here.table(table):
            yield refuse(f"POOL_JOINING_HOST_HAS_{what}")


def _vlans(join: Join) -> Iterator[Failure]:
    for vlan in join.here.table("VLAN").values():
        if not join.here.get("PIF", vlan["untagged_PIF"])["management"]:
            yield refuse("POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS")
    tags = [pif["VLAN"] if pif is not None else -1 for pif in _managements(join)]
    if tags[0] != tags[1]:
        yield refuse("POOL_JOINING_HOST_MANAGEMENT_VLAN_DOES_NOT_MATCH", *tags)


def _managements(join: Join) -> tuple[Row | None, Row | None]:
    """The management interfaces of the host and of the pool's master."""
    return pifs.management(join.here, join.me), pifs.management(join.there, join.master)


def _backend(join: Join) -> Iterator[Failure]:
    mine, theirs = (told.get("network_backend", "bridge") for told in join.software)
    if mine != theirs:
        yield refuse("OPERATION_NOT_ALLOWED", "Network backends differ")
    fields = ("protocol", "address", "port")
    own, pools = (
        [[row[name] for name in fields] for row in s.table("SDN_controller").values()] for s in (join.here, join.there)
    )
    if mine == "openvswitch" and own and own[:1] != pools[:1]:
        yield refuse("OPERATION_NOT_ALLOWED", "SDN controller differs")
    if join.here.release.order < rules.FALCON:
        controller, other = (store.pool().get("vswitch_controller", "") for store in (join.here, join.there))
        if mine == "openvswitch" and controller not in ("", other):
            yield refuse("OPERATION_NOT_ALLOWED", "vswitch controller address differs")


def _addresses(join: Join) -> Iterator[Failure]:
    kinds = {pif.get("primary_address_type") for pif in _managements(join) if pif is not None}
    if len(kinds) > 1:
        yield refuse("OPERATION_NOT_ALLOWED", "Primary address type differs")


def _purposes(join: Join) -> Iterator[Failure]:
    def first(store: Store) -> str | None:
        said = (word for row in store.table("network").values() for word in row.get("purpose", ()))
        return next((word for word in said if word in NBD), None)

    found = {first(join.here), first(join.there)} - {None}
    if len(found) > 1:
        yield refuse("OPERATION_NOT_ALLOWED", "Incompatible network purposes: nbd and insecure_nbd")


# --- who may use it, and what it is


def _directory(join: Join) -> Iterator[Failure]:
    """Domains are told apart by their case up to the toolstack's version 24.32."""

    def told(host: Row) -> tuple[str, str]:
        name = host.get("external_auth_service_name", "")
        return host.get("external_auth_type", ""), name.lower() if join.here.release.order >= IGNORES_CASE else name

    if told(join.me) != told(join.master):
        yield refuse("POOL_JOINING_EXTERNAL_AUTH_MISMATCH")


def _restrictions(join: Join) -> Iterator[Failure]:
    """Up to 5.6 all that licences take away was compared: of the pool, what they take from any of its hosts."""
    if join.here.release.order > rules.MIDNIGHT_RIDE:
        return

    def taken(hosts: Iterable[Row]) -> set[str]:
        params = [item for host in hosts for item in host["license_params"].items()]
        return {key for key, value in params if key.startswith("restrict_") and value == "true"}

    if taken([join.me]) != taken(join.there.table("host").values()):
        yield refuse("LICENCE_RESTRICTION")


def _edition(join: Join) -> Iterator[Failure]:
    """Different editions are compared by the ranks that the joining host's licensing daemon gives them."""
    mine, theirs = join.me.get("edition", ""), [h.get("edition", "") for h in join.there.table("host").values()]
    if all(edition == mine for edition in theirs):
        return
    ranks = {}
    for edition in (*theirs, mine):
        known = editions.edition(join.here.release, edition)
        if known is None:
            yield _mismatch(join, f'Edition "{edition}" from pool is not known to v6d.')
            return
        ranks[edition] = known.rank
    lowest = min(theirs, key=ranks.__getitem__)
    if ranks[lowest] != ranks[mine]:
        yield _mismatch(join, f'host edition = "{mine}"', f'pool edition = "{lowest}"')


def _mismatch(join: Join, *told: str) -> Failure:
    """The error for another edition; up to 6.2 it told nothing."""
    old = join.here.release.order < rules.CREAM
    return refuse("LICENCE_RESTRICTION") if old else refuse("LICENSE_HOST_POOL_MISMATCH", *told)


def _versions(join: Join) -> Iterator[Failure]:
    """What is asked since 7.2."""
    if join.here.release.order < rules.FALCON:
        return
    mine, theirs = (f"{row['API_version_major']}.{row['API_version_minor']}" for row in (join.me, join.master))
    if mine != theirs:
        yield refuse("POOL_JOINING_HOST_MUST_HAVE_SAME_API_VERSION", mine, theirs)
    mine, theirs = (told.get("db_schema", "") for told in join.software)
    if mine != theirs:
        yield refuse("POOL_JOINING_HOST_MUST_HAVE_SAME_DB_SCHEMA", mine, theirs)


def _patches(join: Join) -> Iterator[Failure]:
    return homogeneous.other_patches(join.here, join.me, join.there, join.master)


def _updates(join: Join) -> Iterator[Failure]:
    return homogeneous.other_updates(join.here, join.me, join.there, join.master)


# --- trust, and what goes on


def _tls(join: Join) -> Iterator[Failure]:
    mine, theirs = (bool(store.pool().get("tls_verification_enabled")) for store in (join.here, join.there))
    if mine != theirs:
        yield refuse("POOL_JOINING_HOST_TLS_VERIFICATION_MISMATCH")


def _authorities(join: Join) -> Iterator[Failure]:
    def named(store: Store) -> dict[str, str]:
        rows = (row for row in store.table("Certificate").values() if row.get("type") == "ca" and row.get("name"))
        return {row["name"]: row.get("fingerprint_sha256") or row["fingerprint"] for row in rows}

    mine, theirs = named(join.here), named(join.there)
    conflicts = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    if conflicts:
        yield refuse("POOL_JOINING_HOST_CA_CERTIFICATES_CONFLICT", *conflicts)


def _purposes_of_trust(join: Join) -> Iterator[Failure]:
    def trusted(store: Store) -> dict[str, Row]:
        rows = (row for row in store.table("Certificate").values() if row.get("type") in ("ca", "pinned"))
        return {row.get("fingerprint_sha256", ""): row for row in rows if not row.get("name")}

    mine = trusted(join.here)
    for fingerprint, row in trusted(join.there).items():
        own = set(mine[fingerprint].get("purpose", ())) if fingerprint in mine else set()
        pools = set(row.get("purpose", ()))
        if own & pools and own != pools:
            yield refuse("POOL_JOINING_HOST_TRUSTED_CERTIFICATES_CONFLICT", row.ref, mine[fingerprint].ref)


def _no_updates_going_on(join: Join) -> Iterator[Failure]:
    for store in (join.here, join.there):
        if "apply_updates" in store.pool().get("current_operations", {}).values():
            yield refuse("NOT_SUPPORTED_DURING_UPGRADE")


def _plugins(join: Join) -> Iterator[Failure]:
    """Every type of storage that the pool knows the host must know too, and its plugin be able to do as much."""
    for theirs in join.there.table("SM").values():
        mine = [row for row in join.here.table("SM").values() if row["type"] == theirs["type"]]
        if len(mine) != 1:
            yield refuse("POOL_JOINING_SM_FEATURES_INCOMPATIBLE", theirs.ref, "")
        elif any(mine[0].get("features", {}).get(n, -1) < v for n, v in theirs.get("features", {}).items()):
            yield refuse("POOL_JOINING_SM_FEATURES_INCOMPATIBLE", theirs.ref, mine[0].ref)


Check = Callable[[Join], Iterator[Failure]]
CHECKS: tuple[Check, ...] = (
    *(_size, _has_management, _ha_here, _clustered, _cluster_there, _ha_there, _not_myself, _alone),
    *(_no_running_vms, _no_busy_vms, _no_guidance, _compatible, _homogeneous, _no_shared_storage),
    *(_bare_cards, _no_bonds, _vlans, _directory, _edition, _restrictions, _backend, _patches, _versions, _updates),
    *(_addresses, _purposes),
    *(_tls, _authorities, _purposes_of_trust, _no_updates_going_on, _plugins),
)

LATER: dict[Check, tuple[int, ...]] = {
    _backend: rules.COWLEY,
    _has_management: rules.BOSTON,
    _no_bonds: rules.INVERNESS,
    _vlans: rules.INVERNESS,
    _updates: rules.INVERNESS,
    _no_guidance: load().order("24.31.0"),
    _plugins: load().order("24.37.0"),
    _cluster_there: load().order("25.8.0"),
    _purposes_of_trust: load().order("26.13.0"),
}
"""The releases, or the toolstack's versions, with which checks came; the others say themselves whether they look."""
