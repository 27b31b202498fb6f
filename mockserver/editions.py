"""What licences give: the features that one can take away, and the editions of each release with what they lack.

xapi names its features; which edition lacks which is decided by a licensing daemon. The daemon of XCP-ng is public, that of
XenServer is not: its editions are those that clients know by name, and what they lack is what the vendor's tables of
features say. Up to 5.5 there was no daemon: a licence named a kind of product, told apart here as `SKUS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from xenctl import datamodel
from xenctl.releases import XCP_NG, Release, find


@dataclass(frozen=True)
class Feature:
    """A feature as errors name it, and the key by which `license_params` and `restrictions` speak of it, since a release.

    A key says what is restricted, or, where it is `positive`, what is there. One that is not `core` is the daemon's own:
    xapi passes it on and never asks.
    """

    name: str
    key: str
    since: str
    positive: bool = False
    core: bool = True

    def text(self, *, there: bool) -> str:
        """What stands behind the key."""
        return "true" if there is self.positive else "false"

    def there(self, params: Mapping[str, str]) -> bool | None:
        """Whether licence parameters have the feature; None where they do not say."""
        text = params.get(self.key)
        return None if text not in ("true", "false") else (text == "true") is self.positive


_KEYS = {
    "midnight-ride": "VLAN=vlan QoS=qos Shared_storage=pool_attached_storage Netapp=netapp Equalogic=equalogic "
    "Pooling=pooling Marathon=marathon Email=email_alerting Performance=historical_performance WLB=wlb RBAC=rbac DMC=dmc "
    "Checkpoint=checkpoint CPU_masking=cpu_masking Connection=connection",
    "cowley": "VMPR=vmpr",
    "boston": "IntelliCache=intellicache GPU=gpu DR=dr",
    "tampa": "VIF_locking=vif_locking Storage_motion=storage_xen_motion",
    "creedence": "VGPU=vgpu",
    "dundee": "Integrated_GPU=integrated_gpu_passthrough VSS=vss Guest_agent_auto_update=guest_agent_auto_update "
    "PCI_device_for_auto_update=pci_device_for_auto_update Xen_motion=xen_motion Guest_ip_setting=guest_ip_setting AD=ad",
    "ely": "Nested_virt=nested_virt Live_patching=live_patching Live_set_vcpus=set_vcpus_number_live PVS_proxy=pvs_proxy",
    "falcon": "VMSS=vmss",
    "inverness": "IGMP_snooping=igmp_snooping RPU=rpu Pool_size=pool_size CBT=cbt USB_passthrough=usb_passthrough",
    "kolkata": "Network_sriov=network_sriov Corosync=corosync",
    "quebec": "Zstd_export=zstd_export",
    "stockholm": "Pool_secret_rotation=pool_secret_rotation",
    "nile": "Certificate_verification=certificate_verification Updates=updates Internal_repo_access=internal_repo_access "
    "VTPM=vtpm",
    "24.19.1": "VM_groups=vm_groups VM_start=vm_start VM_appliance_start=vm_appliance_start",
    "25.6.0": "Cluster_address=cluster_address",
}
"""Features by the release that brought them, each with its key without `restrict_`."""
_OTHERS = {
    "clearwater": "hotfix_apply",
    "dundee": "export_resource_data read_caching cifs health_check xcm",
    "falcon": "batch_hotfix_apply",
}
"""What the daemon restricts besides, in the same way."""


def _features() -> dict[str, Feature]:
    out = {
        "HA": Feature("HA", "enable_xha", "midnight-ride", positive=True),
        "No_platform_filter": Feature("No_platform_filter", "platform_filter", "midnight-ride"),
        "No_nag_dialog": Feature("No_nag_dialog", "regular_nag_dialog", "midnight-ride"),
    }
    for since, pairs in _KEYS.items():
        for name, _, key in (pair.partition("=") for pair in pairs.split()):
            out[name] = Feature(name, f"restrict_{key}", since)
    for since, keys in _OTHERS.items():
        for key in keys.split():
            out[key] = Feature(key, f"restrict_{key}", since, core=False)
    return out


FEATURES: Mapping[str, Feature] = _features()
THERE_WHEN_UNKNOWN = frozenset({"Xen_motion", "AD", "Updates", "VM_start", "VM_appliance_start"})
"""What a host has that says nothing of it: it is older than the restriction."""


@cache
def features(release: Release) -> tuple[Feature, ...]:
    """What licences of a release speak of."""
    order = datamodel.load().order
    return tuple(feature for feature in FEATURES.values() if order(feature.since) <= release.order)


def restrictions(release: Release, lacking: Iterable[str]) -> dict[str, str]:
    """The part of licence parameters that says what there is."""
    gone = frozenset(lacking)
    return {feature.key: feature.text(there=feature.name not in gone) for feature in features(release)}


# --- editions


@dataclass(frozen=True)
class Edition:
    """An edition: its rank among those of its release, what it lacks, and whether a licence server must give it."""

    name: str
    rank: int
    lacks: frozenset[str] = frozenset()
    paid: bool = True


def _set(*names: str) -> frozenset[str]:
    return frozenset(name for text in names for name in text.split())


_STORAGE_AND_PLACING = "Netapp Equalogic WLB RBAC Checkpoint CPU_masking IntelliCache GPU DR VIF_locking Storage_motion"
_BASIC = (
    "WLB VGPU Integrated_GPU IntelliCache PVS_proxy Live_patching Guest_agent_auto_update PCI_device_for_auto_update"
)
_BASIC_OTHERS = "hotfix_apply export_resource_data read_caching cifs health_check xcm batch_hotfix_apply"
_PREMIUM = "CBT IGMP_snooping USB_passthrough Network_sriov Corosync Zstd_export"
_STANDARD = _set(_BASIC, "export_resource_data read_caching cifs health_check xcm")
_NEWER_STANDARD = _STANDARD | _set(_PREMIUM)
_FREE = _NEWER_STANDARD | _set(_BASIC_OTHERS, "Pool_size DMC Storage_motion AD RBAC HA GPU DR RPU")


def _editions(lowest: str, lacks: frozenset[str], *paid: tuple[str, frozenset[str]]) -> tuple[Edition, ...]:
    """Editions of a release, lowest first."""
    rest = [Edition(name, rank, lacking) for rank, (name, lacking) in enumerate(paid, 1)]
    return (Edition(lowest, 0, lacks, paid=False), *rest)


NOTHING: frozenset[str] = frozenset()
_SINCE: tuple[tuple[str, tuple[Edition, ...]], ...] = (
    (
        "midnight-ride",
        _editions(
            "free",
            _set(_STORAGE_AND_PLACING, "HA Email Performance DMC VMPR No_platform_filter No_nag_dialog"),
            ("advanced", _set(_STORAGE_AND_PLACING)),
            ("enterprise", _set("DR")),
            ("enterprise-xd", _set("DR")),
            ("platinum", NOTHING),
        ),
    ),
    ("clearwater", _editions("free", _set("hotfix_apply"), ("xendesktop", NOTHING), ("per-socket", NOTHING))),
    (
        "creedence",
        _editions(
            "free",
            _set("WLB VGPU IntelliCache hotfix_apply"),
            ("standard-per-socket", _set("WLB VGPU IntelliCache")),
            ("desktop", _set("WLB")),
            ("desktop-plus", NOTHING),
            ("enterprise-per-user", NOTHING),
            ("enterprise-per-socket", NOTHING),
        ),
    ),
    (
        "dundee",
        _editions(
            "free",
            _set(_BASIC, _BASIC_OTHERS),
            ("standard-per-socket", _STANDARD),
            ("desktop", _STANDARD),
            ("desktop-plus", NOTHING),
            ("enterprise-per-user", NOTHING),
            ("enterprise-per-socket", NOTHING),
        ),
    ),
    (
        "inverness",
        _editions(
            "free",
            _FREE,
            ("standard-per-socket", _NEWER_STANDARD),
            ("desktop", _NEWER_STANDARD),
            ("desktop-cloud", NOTHING),
            ("desktop-plus", NOTHING),
            ("enterprise-per-user", NOTHING),
            ("enterprise-per-socket", NOTHING),
        ),
    ),
    (
        "naples",
        _editions(
            "express",
            _FREE,
            ("standard-per-socket", _NEWER_STANDARD),
            ("desktop", _NEWER_STANDARD),
            ("desktop-cloud", NOTHING),
            ("desktop-plus", NOTHING),
            ("premium-per-user", NOTHING),
            ("premium-per-socket", NOTHING),
        ),
    ),
    (
        "nile",
        _editions(
            "trial",
            _set("Pool_size RPU"),
            ("standard-per-socket", _NEWER_STANDARD),
            ("desktop", _NEWER_STANDARD),
            ("desktop-cloud", NOTHING),
            ("desktop-plus", NOTHING),
            ("premium-per-user", NOTHING),
            ("premium-per-socket", NOTHING),
        ),
    ),
)
"""The editions of XenServer by the release that brought them; the last is what a fresh pool here has."""
_XCP_NG = (Edition("xcp-ng", 100, _set("Corosync"), paid=False),)
"""The daemon of XCP-ng knows one edition, and takes every name for it."""

OLD_NAMES: Mapping[str, str] = {
    "XE Express": "free",
    "advanced": "per-socket",
    "enterprise": "per-socket",
    "platinum": "per-socket",
    "enterprise-xd": "xendesktop",
    "per-socket": "enterprise-per-socket",
    "xendesktop": "desktop-plus",
    "enterprise-per-socket": "premium-per-socket",
    "enterprise-per-user": "premium-per-user",
    "free": "express",
    "express": "trial",
}
"""What editions are called by the release that no longer knows their name."""


@cache
def editions(release: Release) -> tuple[Edition, ...]:
    """The editions of a release, lowest first; none up to 5.5."""
    if release.product_brand == XCP_NG:
        return _XCP_NG
    found: tuple[Edition, ...] = ()
    for since, those in _SINCE:
        if datamodel.load().order(since) <= release.order:
            found = those
    return found


def edition(release: Release, name: str) -> Edition | None:
    """The edition called `name`; None where the release knows none."""
    known = editions(release)
    if release.product_brand == XCP_NG:
        return Edition(name or known[0].name, known[0].rank, known[0].lacks, paid=False)
    return next((one for one in known if one.name == name), None)


def renamed(release: Release, name: str) -> Edition | None:
    """The edition that a release makes of a name that an older one gave; None for a name that none gave."""
    seen = set()
    while name not in seen:
        seen.add(name)
        found = edition(release, name)
        if found is not None:
            return found
        name = OLD_NAMES.get(name, name)
    return None


# --- products, before there were editions

_ORLANDO = find("5.0.0").order
_PAID_ONLY = _set("Netapp Equalogic HA Email Performance WLB RBAC No_platform_filter No_nag_dialog")
_ALONE = _set("Pooling Shared_storage QoS")
SKUS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "XE Express": (_ALONE | _PAID_ONLY, _PAID_ONLY),
    "XE Server": (_ALONE, NOTHING),
    "XE Enterprise": (NOTHING, NOTHING),
}
"""What each product lacks: up to 5.0, where only the largest could form pools, and in 5.5."""
_OEM = ("Dell ", "HP ")


def sku_lacks(release: Release, sku: str) -> frozenset[str] | None:
    """What a product lacks; None for one that is not known."""
    for brand in _OEM:
        sku = sku.removeprefix(brand)
    found = SKUS.get(sku)
    return found[release.order > _ORLANDO] if found is not None else None
