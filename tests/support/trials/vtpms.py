"""What the calls of `test_verbs_write` need to know of virtual TPMs."""

from __future__ import annotations

PREPARED: dict[str, tuple[str, ...]] = {
    "VTPM.create": ("VM.hard_shutdown",),
    **{f"VTPM.{verb}": ("VM.hard_shutdown", "VTPM.create") for verb in ("destroy", "set_contents", "get_contents")},
}
PROBED = {"VTPM.get_contents": "test_vtpms.py::test_the_first_start_makes_the_contents_which_stay"}
