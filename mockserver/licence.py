"""What a pool's licence restricts: only what `pool.restrictions` says so about; a pool that says nothing may do all."""

from __future__ import annotations

from .call import Call, refuse

RESTRICTIONS = {
    "AD": "restrict_ad",
    "GuestIP": "restrict_guest_ip_setting",
    "Network_sriov": "restrict_network_sriov",
    "Integrated_GPU": "restrict_integrated_gpu_passthrough",
    "RBAC": "restrict_rbac",
    "Start": "restrict_vm_appliance_start",
    "VIFLock": "restrict_vif_locking",
    "VMSS": "restrict_vmss",
    "VSS": "restrict_vss",
}
"""The key that restricts a feature, by the name that the error gives it."""


GRANTS = {"HA": "enable_xha"}
"""Features that have a key which grants them, instead of one that restricts them."""


def restricted(call: Call, feature: str) -> bool:
    """Whether the licence takes `feature` away."""
    if feature in GRANTS:
        return str(call.db.pool().get("restrictions", {}).get(GRANTS[feature], "")) == "false"
    return str(call.db.pool().get("restrictions", {}).get(RESTRICTIONS[feature], "")) == "true"


def assert_enabled(call: Call, feature: str) -> None:
    """Raise `LICENCE_RESTRICTION` where the licence takes `feature` away."""
    if restricted(call, feature):
        raise refuse("LICENCE_RESTRICTION", feature)
