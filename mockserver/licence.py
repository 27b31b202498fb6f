"""What a pool's licence restricts: only what `pool.restrictions` says so about; a pool that says nothing may do all."""

from __future__ import annotations

from .call import Call, refuse

RESTRICTIONS = {
    "AD": "restrict_ad",
    "GuestIP": "restrict_guest_ip_setting",
    "Network_sriov": "restrict_network_sriov",
    "Integrated_GPU": "restrict_integrated_gpu_passthrough",
    "Pool_secret_rotation": "restrict_pool_secret_rotation",
    "Pool_size": "restrict_pool_size",
    "Pooling": "restrict_pooling",
    "RBAC": "restrict_rbac",
    "Start": "restrict_vm_appliance_start",
    "VIFLock": "restrict_vif_locking",
    "VMSS": "restrict_vmss",
    "VSS": "restrict_vss",
}
"""The key that restricts a feature, by the name that the error gives it."""


def restricted(call: Call, feature: str) -> bool:
    """Whether the licence takes `feature` away."""
    return str(call.db.pool().get("restrictions", {}).get(RESTRICTIONS[feature], "")) == "true"


def assert_enabled(call: Call, feature: str) -> None:
    """Raise `LICENCE_RESTRICTION` where the licence takes `feature` away."""
    if restricted(call, feature):
        raise refuse("LICENCE_RESTRICTION", feature)
