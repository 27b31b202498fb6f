"""Whether a host may join a pool: what is compared, in the order in which xapi looks, as a table of checks.

Each check looks at the joining host's own database and at the pool's, and says why not. Fields and tables that a release
lacks cannot differ. From 7.6 on a host may come with its management interface on a VLAN; before, only with bare cards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xenctl.datamodel import load
from xenctl.errors import Failure

from . import editions, licence, pifs, rules, software
from .call import Call, refuse
from .storage_drivers import is_tools_sr
from .store import Row, Store

RESTRICTED_SIZE = 3
"""Hosts that a pool has at the most where its licence restricts that."""
OTHER_PRODUCT = "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION"
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


def _brand(software: dict[str, str]) -> str | None:
    return software.get("product_brand", software.get("platform_name"))


def _compatible(join: Join) -> Iterator[Failure]:
    """From 5.6 to 6.0 the versions of the products were compared; before, none that a forced join would have to heed."""
    mine, theirs = (row["software_version"] for row in (join.me, join.master))
    if join.here.release.order < rules.TAMPA:
        if join.here.release.order > rules.GEORGE and mine.get("product_version") != theirs.get("product_version"):
            yield refuse(OTHER_PRODUCT)
    elif any(tell(mine) != tell(theirs) for tell in (lambda found: found.get("platform_version"), _brand)):
        yield refuse("HOSTS_NOT_COMPATIBLE")


def _homogeneous(join: Join) -> Iterator[Failure]:
    """Builds are not compared, CPUs only by their makers."""
    if join.forced:
        return

    def told(software: dict[str, str]) -> tuple[str | None, ...]:
        pack = "package-linux" in software or "xs:linux" in software
        return software.get("xapi", ""), _brand(software), software.get("git_id", ""), str(pack)

    mine, theirs = (row["software_version"] for row in (join.me, join.master))
    old = "platform_version" not in mine
    if told(mine) != told(theirs) or (old and mine.get("product_version") != theirs.get("product_version")):
        yield refuse("HOSTS_NOT_HOMOGENEOUS", "Software version differs")
    pools = join.there.pool().get("cpu_info") or _processor(join.there, join.master)
    if _processor(join.here, join.me).get("vendor") != pools.get("vendor"):
        yield refuse("HOSTS_NOT_HOMOGENEOUS", "CPUs differ")


def _processor(store: Store, host: Row) -> dict[str, str]:
    """What a host's processors are; 5.5 and older had a row for each, and nothing in the host's."""
    told: dict[str, str] = host.get("cpu_info") or next(
        ({"vendor": cpu["vendor"]} for cpu in store.table("host_cpu").values() if cpu["host"] == host.ref), {}
    )
    return told


def _no_shared_storage(join: Join) -> Iterator[Failure]:
    if any(sr["shared"] and not is_tools_sr(sr) for sr in join.here.table("SR").values()):
        yield refuse("JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS")


# --- the network


def _bare_cards(join: Join) -> Iterator[Failure]:
    """What was asked before 7.6."""
    rows = [join.here.get("PIF", ref) for ref in join.me["PIFs"]]
    bare = {pif.ref for pif in pifs.physical_pifs(join.here, join.me)}
    managing = pifs.management(join.here, join.me)
    if join.here.release.order < rules.LIMA:
        if managing is not None and managing.ref not in bare:
            yield refuse("POOL_JOINING_HOST_MUST_HAVE_PHYSICAL_MANAGEMENT_NIC")
        if len(bare) != len(rows):
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
    if join.here.release.order >= rules.LIMA and tags[0] != tags[1]:
        yield refuse("POOL_JOINING_HOST_MANAGEMENT_VLAN_DOES_NOT_MATCH", *tags)


def _managements(join: Join) -> tuple[Row | None, Row | None]:
    """The management interfaces of the host and of the pool's master."""
    return pifs.management(join.here, join.me), pifs.management(join.there, join.master)


def _backend(join: Join) -> Iterator[Failure]:
    mine, theirs = (row["software_version"].get("network_backend", "bridge") for row in (join.me, join.master))
    if mine != theirs:
        yield refuse("OPERATION_NOT_ALLOWED", "Network backends differ")
    fields = ("protocol", "address", "port")
    own, pools = (
        [[row[name] for name in fields] for row in s.table("SDN_controller").values()] for s in (join.here, join.there)
    )
    if mine == "openvswitch" and own and own[:1] != pools[:1]:
        yield refuse("OPERATION_NOT_ALLOWED", "SDN controller differs")


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


def _edition(join: Join) -> Iterator[Failure]:
    """Different editions are compared by the ranks that the joining host's licensing daemon gives them."""
    mine, theirs = join.me.get("edition", ""), [h.get("edition", "") for h in join.there.table("host").values()]
    if all(edition == mine for edition in theirs):
        return
    ranks = {}
    for edition in (*theirs, mine):
        known = editions.edition(join.here.release, edition)
        if known is None:
            yield refuse("LICENSE_HOST_POOL_MISMATCH", f'Edition "{edition}" from pool is not known to v6d.')
            return
        ranks[edition] = known.rank
    lowest = min(theirs, key=ranks.__getitem__)
    if ranks[lowest] != ranks[mine]:
        yield refuse("LICENSE_HOST_POOL_MISMATCH", f'host edition = "{mine}"', f'pool edition = "{lowest}"')


def _versions(join: Join) -> Iterator[Failure]:
    """What is asked since 7.2."""
    if join.here.release.order < software.FALCON:
        return
    mine, theirs = (f"{row['API_version_major']}.{row['API_version_minor']}" for row in (join.me, join.master))
    if mine != theirs:
        yield refuse("POOL_JOINING_HOST_MUST_HAVE_SAME_API_VERSION", mine, theirs)
    mine, theirs = (row["software_version"].get("db_schema", "") for row in (join.me, join.master))
    if mine != theirs:
        yield refuse("POOL_JOINING_HOST_MUST_HAVE_SAME_DB_SCHEMA", mine, theirs)


def _updates(join: Join) -> Iterator[Failure]:
    def alike(store: Store, host: Row) -> set[str]:
        rows = (store.get("pool_update", ref) for ref in host.get("updates", ()))
        return {row["uuid"] for row in rows if row["enforce_homogeneity"]}

    if alike(join.here, join.me) != alike(join.there, join.master):
        names = join.me["name_label"], join.master["name_label"]
        yield refuse("HOSTS_NOT_HOMOGENEOUS", "Updates on local host {} and pool host {} differ".format(*names))


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
    *(_bare_cards, _no_bonds, _vlans, _directory, _edition, _backend, _versions, _updates, _addresses, _purposes),
    *(_tls, _authorities, _purposes_of_trust, _no_updates_going_on, _plugins),
)

LATER: dict[Check, tuple[int, ...]] = {
    _no_guidance: load().order("24.31.0"),
    _plugins: load().order("24.37.0"),
    _cluster_there: load().order("25.8.0"),
    _purposes_of_trust: load().order("26.13.0"),
}
"""The toolstack's versions with which checks came that no release before had."""
