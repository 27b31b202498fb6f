"""What the calls of `test_verbs_write` need to know of verbs that no topic has taken for its own."""

from __future__ import annotations

from typing import Any

from . import GONE

NEWER = {
    *("VIF.add_trunks", "VIF.remove_trunks", "VIF.set_trunks", "message.destroy_all"),
    *("VM.set_groups", "VM.update_secureboot_certificates_on_boot"),
}
ELSEWHERE = {
    *("VM.atomic_set_resident_on", "VM.hard_reboot_internal"),  # toolstacks alone may call them
    "VM.set_protection_policy",  # gone before 7.0
    "pool.set_uefi_certificates",  # between 8.1 and 8.2
    "pool_update.detach",  # as often as it was attached
    "VM.set_suspend_VDI",  # needs another image with the same bytes
}

RECORD = {
    "VIF": {"device": "9", "MAC": "", "MTU": 1500, "qos_algorithm_type": "", "qos_algorithm_params": {}},
    "VMSS": {"type": "snapshot", "frequency": "daily"},
    "subject": {"subject_identifier": "S-1-5-21-1-2-3-1001"},
}

GIB = 1 << 30
HINTS: dict[str, list[Any]] = {
    "VM.call_plugin.plugin": ["guest-agent-operation"],
    "VM.call_plugin.fn": ["request-rdp-on"],
    "VM.set_ha_restart_priority.value": ["restart", "best-effort"],
    "VM.set_VCPUs_max.value": [9],
    "VM.set_memory.value": [4 * GIB],
    "VM.set_memory_dynamic_min.value": [GIB],
    "VM.set_memory_dynamic_max.value": [GIB, 2 * GIB],
    "VM.set_memory_dynamic_range.min": [GIB],
    "VM.set_memory_dynamic_range.max": [GIB, 2 * GIB],
    "VM.set_memory_static_max.value": [8 * GIB],
    "VM.set_memory_static_range.max": [8 * GIB],
    "data_source": ["cpu0"],
    "multiplier": [2.0],
    "VM.set_HVM_shadow_multiplier.value": [2.0],
    "device": ["eth1", "eth8"],
    "MAC": [""],
    "PIF.reconfigure_ip.mode": ["DHCP"],
    "PIF.reconfigure_ipv6.IPv6": ["fd00::9/64"],
    "PIF.reconfigure_ipv6.mode": ["Static"],
    "PIF.set_property.name": ["gro"],
    "PIF.set_property.value": ["off"],
    "Bond.set_property.name": ["lacp-time"],
    "Bond.set_property.value": ["fast"],
    "VIF.configure_ipv4.address": ["10.9.0.1/24"],
    "VIF.configure_ipv6.address": ["fd00::9/64"],
    "VIF.set_ipv4_allowed.value": [["10.9.0.1"]],
    "VIF.set_ipv6_allowed.value": [["fd00::9"]],
    "VIF.add_ipv4_allowed.value": ["10.9.0.1"],
    "VIF.add_ipv6_allowed.value": ["fd00::9"],
    "VIF.remove_ipv4_allowed.value": ["10.9.0.7"],
    "VIF.remove_ipv6_allowed.value": ["fd00::7"],
    "VMSS.add_to_schedule.key": ["hour"],
    "VMSS.add_to_schedule.value": ["7"],
    "VMSS.remove_from_schedule.key": ["min"],
    "VMSS.set_schedule.value": [{"hour": "9"}],
    "VMSS.set_last_run_time.value": ["20260101T00:00:00Z"],
    "secret.introduce.uuid": ["0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"],
    "host_crashdump.upload.url": ["ftp://elsewhere/"],
    "VM_appliance.start.paused": [False],
    "userdevice": ["9"],
    "SR.create.type": ["nfs"],
    "SR.create.content_type": ["user"],
    "VDI.introduce.type": ["user"],
    "VDI.pool_introduce.type": ["user"],
    "VDI.introduce.uuid": ["1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"],
    "VDI.pool_introduce.uuid": ["1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"],
    "VDI.resize_online.size": [64 << 30],
    "pool.add_to_guest_agent_config.key": ["auto_update_enabled"],
    "pool.add_to_guest_agent_config.value": ["true"],
    "pool.remove_from_guest_agent_config.key": ["auto_update_enabled"],
    "pool.configure_repository_proxy.url": ["https://proxy"],
    "pool.configure_repository_proxy.username": ["me"],
    "pool.configure_repository_proxy.password": ["hush"],
    "pool.create_VLAN.device": ["eth0"],
    "pool.set_telemetry_next_collection.value": ["20081202T00:00:00Z"],
    "name_label": ["new"],
    "name_description": [""],
    "physical_size": [1 << 40],
    "virtual_size": [1 << 30],
    "physical_utilisation": [1 << 20],
    "location": ["lun9"],
    "sharable": [False],
    "read_only": [False],
    "managed": [True],
    "is_a_snapshot": [False],
    "snapshot_of": ["OpaqueRef:NULL"],
    "metadata_of_pool": ["OpaqueRef:NULL"],
}

REFUSED = {"VBD.pause": "SR_OPERATION_NOT_SUPPORTED", "VBD.unpause": "SR_OPERATION_NOT_SUPPORTED"}

AT_REST = ("VM.hard_shutdown", "host.disable")
PREPARED: dict[str, tuple[str, ...]] = {
    "PBD.destroy": ("PBD.unplug",),
    "PBD.plug": ("PBD.unplug",),
    "SR.disable_database_replication": ("SR.enable_database_replication",),
    "SR.forget": ("VDI.destroy", "PBD.unplug"),
    "VIF.plug": ("VIF.unplug",),
    "VM.provision": ("VM.create_template",),
    "VM.revert": ("VM.snapshot",),
    "VM.set_VCPUs_at_startup": ("VM.set_VCPUs_max",),
    "VM.set_memory_dynamic_max": ("VM.set_memory_dynamic_min",),
    "VM.unpause": ("VM.pause",),
    "host.declare_dead": (GONE,),
    "host.destroy": (GONE, "host.declare_dead"),
    "host.disable_local_storage_caching": (*AT_REST, "host.enable_local_storage_caching"),
    "host.enable": ("host.disable",),
    "host.enable_display": ("host.disable_display",),
    "host.enable_local_storage_caching": AT_REST,
    "host.power_on": (GONE, "host.set_power_on_mode"),
    "host.reboot": ("VM.hard_shutdown", "host.disable"),
    "host.shutdown": ("VM.hard_shutdown", "host.disable"),
    "network.detach_for_vm": ("VIF.move", "network.attach_for_vm"),
    "pool.disable_client_certificate_auth": ("pool.enable_client_certificate_auth",),
    "pool.disable_local_storage_caching": (*AT_REST, "pool.enable_local_storage_caching"),
    "pool.disable_repository_proxy": ("pool.configure_repository_proxy",),
    "pool.enable_local_storage_caching": AT_REST,
    "pool.remove_from_guest_agent_config": ("pool.add_to_guest_agent_config",),
}
