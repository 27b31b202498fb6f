"""What the calls of `test_verbs_write` need to know of hosts' own verbs, plugins, and the hardware that VMs are given."""

from __future__ import annotations

from typing import Any

from mockserver.machine.usb import UsbDevice

URL = "http://10.9.9.9/media"

NEWER = {"VM.call_host_plugin"}
ELSEWHERE = {
    *("VGPU.atomic_set_resident_on", "host.notify", "host.nvidia_vf_setup", "host.mxgpu_vf_setup"),  # toolstacks'
    "VM.import",  # needs an archive
    *("host.signal_networking_change", "host.sync_pif_currently_attached", "host.sync_tunnels", "host.sync_vlans"),
}
HINTS: dict[str, list[Any]] = {
    "host.call_plugin.plugin": ["prepare_host_upgrade.py"],
    "host.call_plugin.fn": ["main"],
    "host.call_plugin.args": [{"url": URL}],
    "host.send_debug_keys.keys": ["h"],
    "host.bugreport_upload.url": ["ftp://elsewhere/"],
    "host.record_data_source.data_source": ["cpu_avg"],
    "host.forget_data_source_archives.data_source": ["cpu_avg"],
    "host.backup_rrds.delay": [0.0],
    "VGPU.create.device": ["0"],
    "VGPU.create.other_config": [{}],
}
PREPARED: dict[str, tuple[str, ...]] = {
    "GPU_group.destroy": ("GPU_group.create",),
    "PGPU.add_enabled_VGPU_types": ("PGPU.set_enabled_VGPU_types",),
    "PGPU.enable_dom0_access": ("PGPU.disable_dom0_access",),
    "PGPU.set_GPU_group": ("GPU_group.create",),
    "USB_group.destroy": ("USB_group.create",),
    "VGPU.create": ("VM.hard_shutdown",),
    "VGPU.destroy": ("VM.hard_shutdown", "VGPU.create"),
    "VM.s3_resume": ("VM.s3_suspend",),
    "VUSB.destroy": ("VUSB.create",),
}


def furnish(world: Any) -> None:
    """Cards, and devices in ports, one of them not found yet; a medium on a server; and somewhere to send messages to."""
    from mockserver.hardware import equip

    store, pool = world.pool.store, world.pool
    pool.hands.publish(URL, "8.4")
    for host in store.table("host").values():
        store.write(host, logging={"syslog_destination": "10.7.7.7"})
        equip(pool, store, host, gpus=1, usbs=1)
    pool.machine("host1").usbs = (UsbDevice("2-1"),)
    if "VUSB" in store.tables:
        world.add(
            "VUSB", VM=world.vm("vm02").ref, USB_group=next(iter(store.table("USB_group"))), currently_attached=True
        )
