"""How much memory control domains take after the upgrade: what grows there, guests lose.

Up to 6.1 every control domain had 752 MiB. Installers from 6.2 to 7.6 keep what there is. From 8.0 on the least is 1 GiB and
a twentieth of the host's memory, 8 GiB at the most; a host that was given more keeps it. A host's upgrade plugin knows
better where it knows the medium.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .survey import Situation

GIB = 1 << 30
LEAST, SHARE, MOST = GIB, 20, 8 * GIB
GROWS_SINCE = (8, 0)


def growth(at: Situation) -> Mapping[str, int]:
    """By host (uuid), the bytes by which its control domain grows; hosts whose does not, or is not known, are left out."""
    if not at.reaches(*GROWS_SINCE):
        return {}
    out, taken = {}, dict[str, int]()
    for vm in at.records("VM").values():
        if vm["is_control_domain"]:
            taken[vm["resident_on"]] = taken.get(vm["resident_on"], 0) + int(vm["memory_static_max"])
    for host, record in at.hosts():
        total = int(at.survey.get("host_metrics", record.get("metrics")).get("memory_total", 0))
        now = taken.get(host.ref, 0)
        if not total or not now or host.release == at.target:
            continue
        answer = at.ask.plugin(host.ref, "getDom0DefaultMemory") if host.live else None
        then = int(answer) if answer is not None and answer.isdigit() else min(MOST, LEAST + total // SHARE)
        if then > now:
            out[host.uuid] = then - now
    return out
