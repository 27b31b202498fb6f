"""What of a host's hardware a guest holds on to: its processor, and devices that are passed through to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import Failure
from ..values import NULL

if TYPE_CHECKING:
    from ..session import Session

MOVABLE = ("nvidia", "nvidia_sriov")
"""The kinds of vGPU that go along with a guest, where the card's metadata says that another card can take it over."""


@dataclass(frozen=True)
class Cpu:
    """A processor as a host has it, or as a guest was booted with: its vendor, and the bits of its features by the kind
    of guest (`hvm` or `pv`), or as they were counted up to 6.5 (`old`). What is empty is not told, and compared with
    nothing."""

    vendor: str = ""
    features: tuple[tuple[str, int], ...] = ()

    def runs(self, booted: Cpu) -> bool:
        """Whether a guest that was booted with `booted` goes on on this one."""
        if self.vendor and booted.vendor and self.vendor != booted.vendor:
            return False
        mine = dict(self.features)
        told = [(kind, wanted) for kind, wanted in booted.features if kind in mine]
        return all(not wanted & ~mine[kind] for kind, wanted in told[:1])


NO_CPU = Cpu()


def cpu_of_host(info: Mapping[str, str]) -> Cpu:
    """The processor as `host.cpu_info` tells it; before 5.6 nothing of it. Up to 8.1 features are told in the old way, since
    7.0 in today's."""
    told = {kind: _bits(info[name]) for kind, name in KEYS if info.get(name)}
    return Cpu(info.get("vendor", ""), tuple(told.items()))


KEYS = (("hvm", "features_hvm"), ("pv", "features_pv"), ("old", "features"))
OLD_WORDS = 4
"""The words of features as they were told up to 6.5."""


def cpu_of_guest(vm: Mapping[str, Any]) -> Cpu:
    """What a guest that is not halted was booted with, as `VM.last_boot_CPU_flags` tells it. Features that an older release
    noted are held against what a host tells in the old way, if it does."""
    flags = vm.get("last_boot_CPU_flags") or {}
    if vm["power_state"] == "Halted":
        return NO_CPU
    kind = "hvm" if vm["HVM_boot_policy"] or vm.get("domain_type") in ("pvh", "pv_in_pvh") else "pv"
    words = flags.get("features", "")
    kinds = (("old",) if words.count("-") == OLD_WORDS - 1 else ()) + (kind,)
    return Cpu(flags.get("vendor", ""), tuple((kind, _bits(words)) for kind in kinds) if words else ())


def _bits(words: str) -> int:
    """A string of 32-bit words in hexadecimal, joined by dashes, as one number; a shorter string lacks the last
    words."""
    try:
        return sum(int(word, 16) << 32 * i for i, word in enumerate(words.split("-")))
    except ValueError:
        return 0


@dataclass(frozen=True)
class Devices:
    """The devices that guests are tied to, and their groups; classes that the pool's release lacks are empty."""

    cards: Mapping[Any, Any] = field(default_factory=dict)
    vgpus: Mapping[Any, Any] = field(default_factory=dict)
    kinds: Mapping[Any, Any] = field(default_factory=dict)
    groups: Mapping[Any, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, session: Session) -> Devices:
        """Read what the pool has. Raises what `Session.call` does."""
        names = ("PGPU", "VGPU", "VGPU_type", "VM_group")
        return cls(*(_records(session, name) for name in names))

    def of_host(self, host: str) -> frozenset[str]:
        """The GPU groups that a host has a card of."""
        return frozenset(card.GPU_group for card in self.cards.values() if card.host == host)

    def needed(self, vm: Mapping[str, Any]) -> frozenset[str]:
        """The GPU groups that a guest needs a card of."""
        return frozenset(self.vgpus[ref].GPU_group for ref in vm.get("VGPUs", ()) if ref in self.vgpus)

    def apart(self, vm: Mapping[str, Any]) -> frozenset[str]:
        """The groups of a guest whose members are to run on different hosts."""
        mine = (ref for ref in vm.get("groups", ()) if ref in self.groups)
        return frozenset(ref for ref in mine if self.groups[ref].placement == "anti_affinity")

    def tie(self, vm: Mapping[str, Any]) -> str:
        """Why a guest cannot migrate though it could be shut down. Empty where it can."""
        if vm.get("attached_PCIs") or vm["other_config"].get("pci"):
            return "a PCI device is passed through to it"
        if any(not self._goes_along(self.vgpus[ref]) for ref in vm.get("VGPUs", ()) if ref in self.vgpus):
            return "it has a virtual GPU"
        return "a USB device is passed through to it" if vm.get("VUSBs") else ""

    def _goes_along(self, vgpu: Mapping[str, Any]) -> bool:
        kind, card = self.kinds.get(vgpu.get("type", NULL)), self.cards.get(vgpu.get("resident_on", NULL))
        known = kind is not None and kind.get("implementation", "") in MOVABLE
        return known and card is not None and bool(card.get("compatibility_metadata"))


def _records(session: Session, name: str) -> Mapping[Any, Any]:
    """Every record of a class, none where the pool's release does not have it."""
    try:
        records: Mapping[Any, Any] = getattr(session, name).get_all_records()
    except Failure as error:
        if error.code != "MESSAGE_METHOD_UNKNOWN":
            raise
        return {}
    return records
