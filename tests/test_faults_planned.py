"""Faults that are given as a whole: what marks and options are made of."""

from __future__ import annotations

from typing import Any

import pytest

from mockserver import MockPool


@pytest.fixture
def pool() -> MockPool:
    """Two hosts and four guests."""
    return MockPool.create(hosts=2, vms=4, release="8.2")


class TestPlans:
    """Faults that are given as a whole: as a mapping, or as text."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("answer_lost", {"kind": "answer_lost"}),
            ("answer_lost VM.start nth=2", {"kind": "answer_lost", "method": "VM.start", "nth": 2}),
            (
                "error VM.start code=HOST_NOT_ENOUGH_FREE_MEMORY params=1,0 times=always",
                {
                    "kind": "error",
                    "method": "VM.start",
                    "code": "HOST_NOT_ENOUGH_FREE_MEMORY",
                    "params": ["1", "0"],
                    "times": None,
                },
            ),
            ("error code=OUT_OF_SPACE params=x times=3", {"code": "OUT_OF_SPACE", "params": ["x"], "times": 3}),
            ("error code=X params= unknown_code=true", {"code": "X", "params": [], "unknown_code": True}),
            ("stall host=host1 about=OpaqueRef:x seconds=60", {"host": "host1", "about": "OpaqueRef:x", "seconds": 60}),
            ("power_loss victim=host2 after=90 lasting=0.5", {"victim": "host2", "lasting": 0.5}),
            ("http_status method=VM.get_all status=503", {"method": "VM.get_all", "status": 503}),
        ],
    )
    def test_as_text_and_as_mapping(self, pool: MockPool, text: str, words: dict[str, Any]) -> None:
        """They come to the same, and both to what `add` was told."""
        planned = pool.faults.plan(text)
        told = {"kind": planned.kind, **planned.coordinates, **planned.settings}
        assert words.items() <= told.items()
        again = pool.faults.plan({k: v for k, v in told.items() if v is not None or k == "times"})
        assert str(again) == str(planned)

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            ("", "no such fault: ''"),
            ("reset nth=2 VM.start", "not a word of a fault: 'VM.start' in 'reset nth=2 VM.start'; there are nth"),
            ("reset when=now", "not a word of a fault: 'when=now'"),
            ("reset nth=1 nth=2", "not a word of a fault: 'nth=2'"),
            ("reset nth=two", "not a value of nth: 'two'"),
            ("error code=X unknown_code=yes", "not a value of unknown_code: 'yes'"),
            ({"method": "VM.start"}, "which fault"),
        ],
    )
    def test_mistakes(self, pool: MockPool, what: Any, message: str) -> None:
        """A sentence each, and nothing was added."""
        with pytest.raises(ValueError, match=message):
            pool.faults.plan(what)
        assert (len(pool.faults), pool.faults.armed) == (0, False)
