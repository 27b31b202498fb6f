"""VLANs: a tag on a PIF, and the PIF that stands for it."""

from __future__ import annotations

from .. import hosts, network_rules, pifs, rules
from ..call import Call, Steps, refuse
from ..store import Row
from . import verbs_of
from .generic import make
from .vif import assert_tag

verb = verbs_of("VLAN")

WRITES = ("*", "PIF.*", "PIF_metrics.*")


@verb(*WRITES)
def create(call: Call, tagged_PIF: str, tag: int, network: str) -> Steps:  # noqa: N803
    db = call.db
    tagged, target = db.get("PIF", tagged_PIF), db.get("network", network)
    contact = hosts.contact(call.pool, db.get("host", tagged["host"]))
    assert_can_create(call, tagged, tag, target)
    yield call.pool.durations.device
    contact.check()
    vlan, untagged = create_on(call, tagged, tag, target)
    if call.at_least(rules.BOSTON):
        pifs.bring_up(call, untagged)
    return vlan.ref if vlan is not None else untagged.ref


def assert_can_create(call: Call, tagged: Row, tag: int, network: Row) -> None:
    """Raise the first reason why `tag` cannot be added to a PIF. Up to 7.4 who manages it came first and whether it is a
    tunnel's last; up to 5.6 FP1 a VLAN might be added to a member of a bond."""
    db, late = call.db, call.at_least(rules.KOLKATA)
    if not late:
        pifs.assert_managed(db, tagged)
    network_rules.assert_managed(network)
    pifs.assert_no_other(db, tagged["host"], network.ref)
    pifs.assert_managed(db, tagged)
    what = pifs.kind(db, tagged)
    if network_rules.bonded(db, tagged) and call.at_least(rules.BOSTON):
        raise refuse("CANNOT_ADD_VLAN_TO_BOND_SLAVE", tagged.ref)
    if what == "vlan":
        raise refuse("PIF_IS_VLAN", tagged.ref)
    if late:
        _assert_no_access(what, tagged)
        pifs.assert_sriov_mixes(db, tagged, network)
    assert_tag(tag)
    if _has_tag(call, tagged, tag):
        raise refuse("PIF_VLAN_EXISTS", tagged["device"])
    _assert_no_access(what, tagged)
    network_rules.assert_no_trunks(db, network)


def _assert_no_access(what: str, tagged: Row) -> None:
    if what == "tunnel":
        raise refuse("IS_TUNNEL_ACCESS_PIF", tagged.ref)


def _has_tag(call: Call, tagged: Row, tag: int) -> bool:
    """Whether a PIF has the tag already; up to 6.0, whether any on its card has."""
    if call.at_least(rules.TAMPA):
        return any(row["tag"] == tag for row in pifs.vlans_on(call.db, tagged))
    others = (pif for pif in call.db.table("PIF").values() if pif["host"] == tagged["host"])
    return any((pif["device"], pif["VLAN"]) == (tagged["device"], tag) for pif in others)


def create_on(call: Call, tagged: Row, tag: int, network: Row) -> tuple[Row | None, Row]:
    """A VLAN with its PIF, not attached; 4.0.1 knows the PIF only. Since 6.1 its metrics are those of the PIF beneath."""
    metrics = tagged["metrics"] if call.at_least(rules.TAMPA) else pifs.make_metrics(call.pool, call.db)
    untagged = pifs.make(
        call,
        device=tagged["device"],
        network=network.ref,
        host=tagged["host"],
        MAC=pifs.VLAN_MAC,
        MTU=tagged["MTU"],
        VLAN=tag,
        metrics=metrics,
        primary_address_type=pifs.address_type_on(call, tagged),
    )
    if "VLAN" not in call.db.tables:
        return None, untagged
    vlan = make(call, "VLAN", {"tagged_PIF": tagged.ref, "untagged_PIF": untagged.ref, "tag": tag})
    call.db.write(untagged, VLAN_master_of=vlan.ref)
    return vlan, untagged


@verb(*WRITES)
def destroy(call: Call, ref: str) -> Steps:
    row = call.db.get("VLAN", ref)
    untagged = call.db.find("PIF", row["untagged_PIF"])
    if untagged is None:
        call.db.delete(row)
        return ""
    return (yield from destroy_pif(call, untagged))


def destroy_pif(call: Call, untagged: Row) -> Steps:
    """Destroy a VLAN by its PIF."""
    db = call.db
    contact = hosts.contact(call.pool, db.get("host", untagged["host"]))
    pifs.assert_not_in_bond(db, untagged)
    pifs.assert_not_members_management(db, untagged)
    pifs.assert_unprotected(db, untagged)
    pifs.assert_not_for_liveness(db, untagged)
    if untagged["VLAN"] < 0:
        raise refuse("PIF_IS_PHYSICAL")
    if call.at_least(rules.BOSTON):
        pifs.assert_can_unplug(call, untagged)
    else:
        pifs.assert_idle(db, untagged)
    yield call.pool.durations.device
    contact.check()
    pifs.bring_down(call, untagged)
    vlan = db.find("VLAN", untagged.get("VLAN_master_of", ""))
    if vlan is not None:
        db.delete(vlan)
    pifs.drop(call, untagged)
    return ""


@verb(*WRITES)
def pool_introduce(
    call: Call,
    tagged_PIF: str,  # noqa: N803
    untagged_PIF: str,  # noqa: N803
    tag: int,
    other_config: dict[str, str],
) -> str:
    """A joining member's VLAN: its PIF takes over the metrics of the one beneath."""
    tagged, untagged = call.db.get("PIF", tagged_PIF), call.db.get("PIF", untagged_PIF)
    fields = {"tagged_PIF": tagged_PIF, "untagged_PIF": untagged_PIF, "tag": tag, "other_config": other_config}
    vlan = make(call, "VLAN", fields)
    own = call.db.find("PIF_metrics", untagged["metrics"])
    call.db.write(untagged, VLAN_master_of=vlan.ref, metrics=tagged["metrics"])
    if own is not None and own.ref != tagged["metrics"]:
        call.db.delete(own)
    return vlan.ref
