"""The templates that come with the product, a few of each release: made where a pool is to have them.

Scripts that run when a VM is made, which some of the oldest real ones have, are left out. As in the real ones, a disk that
is to be made names no storage (`sr=""`): whoever provisions a VM writes in which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenctl.memory import overhead
from xenctl.releases import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xenctl.releases import Release

    from .pool import MockPool
    from .store import Store

MIB, GIB = 1 << 20, 1 << 30
LINUX, WINDOWS = "linux", "windows"
PLATFORM: Mapping[str, str] = {"acpi": "true", "apic": "true", "pae": "true", "nx": "true", "viridian": "false"}
METHODS: Mapping[str, str] = {"debianlike": "cdrom,http,ftp", "rhlike": "cdrom,http,ftp,nfs", "": "cdrom"}
"""Where the installer of a kind of system finds what it installs."""


@dataclass(frozen=True)
class Template:
    """One template: in releases from `since` up to, and without, `until`. `memory` is in MiB, `disks` are in GiB, by their
    numbers; `hvm` says whether its VMs are fully virtual; `distro` is how its installer works, empty where nobody knows."""

    name: str
    label: str
    kind: str
    hvm: bool
    memory: int
    disks: tuple[int, ...] = ()
    distro: str = ""
    since: str = "4.0.1"
    until: str = ""

    def comes_with(self, release: Release) -> bool:
        """Whether `release` has it."""
        return find(self.since).order <= release.order and (not self.until or release.order < find(self.until).order)


TEMPLATES = (
    Template("Other install media", "other-install-media", "", True, 256),
    Template("Debian Etch 4.0", "debian-4", LINUX, False, 256, (4,), "debianlike", until="5.5.0"),
    Template("Debian Lenny 5.0 (32-bit)", "debian-5", LINUX, False, 256, (8,), "debianlike", "5.5.0", "6.2.0"),
    Template("Debian Wheezy 7.0 (64-bit)", "debian-7", LINUX, False, 256, (8,), "debianlike", "6.2.0", "7.0.0"),
    Template("Debian Jessie 8.0", "debian-8", LINUX, True, 1024, (10,), "debianlike", "7.0.0", "8.2.0"),
    Template("Debian Buster 10", "debian-10", LINUX, True, 1024, (10,), "debianlike", "8.2.0"),
    Template("CentOS 5.0", "centos-5", LINUX, False, 512, (8,), "rhlike", until="5.5.0"),
    Template("CentOS 5 (64-bit)", "centos-5-64bit", LINUX, False, 512, (8,), "rhlike", "5.5.0", "7.0.0"),
    Template("CentOS 7", "centos-7", LINUX, True, 2048, (10,), "rhlike", "7.0.0"),
    Template("Windows Server 2003", "windows-server-2003", WINDOWS, True, 256, (8,), until="6.2.0"),
    Template("Windows 7 (64-bit)", "windows-7-64bit", WINDOWS, True, 2048, (24,), since="6.2.0", until="8.2.0"),
    Template("Windows 10 (64-bit)", "windows-10-64bit", WINDOWS, True, 2048, (32,), since="8.2.0"),
)
"""The templates, those of one kind after another."""


def add(pool: MockPool, store: Store, release: Release) -> None:
    """Put the templates of `release` into a pool that is being made."""
    for template in TEMPLATES:
        if template.comes_with(release):
            fields = dict(_fields(template, pool.new_uuid()))
            fields["memory_overhead"] = overhead(fields)
            store.create("VM", pool.new_ref(), {"uuid": pool.new_uuid(), **fields})


def _fields(template: Template, seed: str) -> Iterator[tuple[str, Any]]:
    memory = template.memory * MIB
    yield from ((f"memory_{name}", memory) for name in ("static_max", "dynamic_max", "dynamic_min", "target"))
    yield from {
        "memory_static_min": memory // 2,
        "name_label": template.name,
        "name_description": f"Installs a VM of {template.name}"
        if template.kind
        else "Installs a VM from whatever medium",
        "reference_label": template.label,
        "is_a_template": True,
        "is_default_template": True,
        "power_state": "Halted",
        "user_version": 1,
        "VCPUs_max": 1,
        "VCPUs_at_startup": 1,
        "HVM_shadow_multiplier": 1.0,
        "domain_type": "hvm" if template.hvm else "pv",
        "HVM_boot_policy": "BIOS order" if template.hvm else "",
        "HVM_boot_params": {"order": "cdn" if template.disks else "dc"} if template.hvm else {},
        "PV_bootloader": "" if template.hvm else "eliloader",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "domid": -1,
        "platform": {**PLATFORM, "viridian": "true" if template.kind == WINDOWS else "false"},
        "recommendations": _recommendations(),
        "other_config": _other_config(template, seed),
    }.items()


def _other_config(template: Template, seed: str) -> dict[str, str]:
    out = {"default_template": "true", "mac_seed": seed, "install-methods": METHODS[template.distro]}
    if template.kind == LINUX:
        out["linux_template"] = "true"
    if template.distro:
        out["install-distro"] = template.distro
    if template.disks:
        disks = "".join(
            f'<disk device="{number}" size="{size * GIB}" sr="" bootable="{str(not number).lower()}" type="system"/>'
            for number, size in enumerate(template.disks)
        )
        out["disks"] = f"<provision>{disks}</provision>"
    return out


def _recommendations() -> str:
    """What clients are told not to exceed."""
    limits = "".join(
        f'<restriction {what}="{name}" max="{most}"/>'
        for what, name, most in (
            ("field", "memory-static-max", 128 * GIB),
            ("field", "vcpus-max", 16),
            ("property", "number-of-vbds", 7),
            ("property", "number-of-vifs", 7),
        )
    )
    return f"<restrictions>{limits}</restrictions>"
