"""Where guests go: memory, storage, homes, and guests that stand in each other's way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xenctl.procedures.observe import HostFacts, PoolFacts, VMFacts
from xenctl.procedures.placement import Board, DoesNotFit, empty, go_home, pinned, reachable
from xenctl.releases import find

GIB = 1 << 30


def host(name: str, room: int = 8, storage: str = "shared", networks: str = "net") -> HostFacts:
    return HostFacts(
        ref=name,
        uuid=name,
        name=name,
        address=name,
        release=find("4.0.1"),
        version="4.0.1",
        enabled=True,
        live=True,
        room=room * GIB,
        storage=frozenset(storage.split()),
        networks=frozenset(networks.split()),
        hvm=True,
        unplugged=(),
    )


def vm(
    name: str, on: str = "", size: int = 2, storage: str = "shared", networks: str = "net", stuck: str = ""
) -> VMFacts:
    return VMFacts(
        ref=name,
        uuid=name,
        name=name,
        state="Running" if on else "Halted",
        host=on,
        memory=size * GIB,
        storage=frozenset(storage.split()),
        networks=frozenset(networks.split()),
        hvm=False,
        discs=(),
        image="",
        stuck=stuck,
        busy=(),
    )


def pool(hosts: list[HostFacts], vms: list[VMFacts]) -> PoolFacts:
    return PoolFacts(
        ref="pool",
        uuid="pool",
        name="pool",
        master=hosts[0].uuid,
        ha_enabled=False,
        upgrading=False,
        hosts={h.uuid: h for h in hosts},
        vms={v.uuid: v for v in vms},
        storage_names={"local": "Local storage"},
    )


def test_a_board_counts_memory() -> None:
    """What a guest takes is missing on its host, and comes back when it leaves."""
    facts = pool([host("a"), host("b")], [vm("x", "a", 3)])
    board = Board.of(facts)
    assert board.free == {"a": 5 * GIB, "b": 8 * GIB}
    board.move(facts.vms["x"], "b")
    assert board.free == {"a": 8 * GIB, "b": 5 * GIB}
    assert [v.name for v in board.on("b")] == ["x"]


def test_a_copy_of_a_board_is_its_own() -> None:
    """Trying one order leaves the board for the next order as it was."""
    facts = pool([host("a"), host("b")], [vm("x", "a", 3)])
    board = Board.of(facts)
    board.copy().move(facts.vms["x"], "b")
    assert board.where == {"x": "a"}
    assert board.free["a"] == 5 * GIB


def test_home_is_preferred_then_room() -> None:
    """A guest goes home if it fits there, else to the host with most room."""
    facts = pool([host("a"), host("b", 6), host("c", 9)], [vm("x", "a", 3)])
    board = Board.of(facts)
    x = facts.vms["x"]
    assert board.best(x, ["b", "c"], home="b") == "b"
    assert board.best(x, ["b", "c"]) == "c"
    assert board.best(x, []) is None


@pytest.mark.parametrize(
    ("guest", "where"),
    [
        (vm("x", "a", storage="local"), "Local storage"),
        (vm("x", "a", networks="other"), "no other host has all of its storage and networks"),
        (vm("x", "a", stuck="it has no paravirtual drivers"), "it has no paravirtual drivers"),
    ],
)
def test_why_a_guest_is_pinned(guest: VMFacts, where: str) -> None:
    """Local storage, a network of its own, or missing drivers pin a guest to its host."""
    facts = pool([host("a", storage="shared local", networks="net other"), host("b")], [guest])
    assert where in pinned(facts, guest, "a")
    assert pinned(facts, vm("y", "a"), "a") == ""


def test_storage_and_networks_decide_what_is_reachable() -> None:
    """A host that lacks one of a guest's storage repositories or networks does not reach it."""
    assert reachable(vm("x"), host("a"))
    assert not reachable(vm("x", storage="shared local"), host("a"))
    assert not reachable(vm("x", networks="other"), host("a"))


def test_a_fully_virtual_guest_needs_the_processor_for_it() -> None:
    """A host without hardware virtualisation takes paravirtual guests only."""
    plain = replace(host("a"), hvm=False)
    assert reachable(vm("x"), plain)
    assert not reachable(replace(vm("x"), hvm=True), plain)


def test_the_biggest_guest_is_placed_first() -> None:
    """Big guests first, so that small ones fill what is left."""
    facts = pool([host("a", 9), host("b", 6), host("c", 3)], [vm("small", "a", 3), vm("big", "a", 6)])
    moves = empty(Board.of(facts), "a", ["b", "c"], {}, set())
    assert [(move.vm, move.target) for move in moves] == [("big", "b"), ("small", "c")]


def test_what_does_not_fit_says_where_and_what_is_missing() -> None:
    """The refusal names the turn, the guest, its size, and the room on each host."""
    facts = pool([host("a"), host("b", 1), host("c", storage="none")], [vm("x", "a", 3)])
    with pytest.raises(DoesNotFit) as caught:
        empty(Board.of(facts), "a", ["b", "c"], {}, set())
    assert str(caught.value) == (
        "when a is upgraded, x (3.0 GiB) has to move and fits nowhere: b has 1.0 GiB free; c lacks the storage shared"
    )


def test_stopped_guests_stay() -> None:
    """A guest that will be shut down is not moved."""
    facts = pool([host("a"), host("b")], [vm("x", "a"), vm("y", "a")])
    assert [move.vm for move in empty(Board.of(facts), "a", ["b"], {}, {"x"})] == ["y"]


def test_everybody_goes_home() -> None:
    """Guests that are away are brought home, those at home stay."""
    facts = pool([host("a"), host("b")], [vm("x", "b"), vm("y", "b")])
    moves, away = go_home(Board.of(facts), {"x": "a", "y": "b"})
    assert [(move.vm, move.source, move.target) for move in moves] == [("x", "b", "a")]
    assert away == []


def test_two_that_stand_in_each_others_way_change_places_by_a_third_host() -> None:
    """Moving home cannot deadlock while some host has room for one of them."""
    facts = pool([host("a", 4), host("b", 4), host("c", 4)], [vm("x", "b", 4), vm("y", "a", 4)])
    board = Board.of(facts)
    moves, away = go_home(board, {"x": "a", "y": "b"})
    assert away == []
    assert board.where == {"x": "a", "y": "b"}
    assert len(moves) == 3


def test_without_any_room_they_stay_away_and_are_named() -> None:
    """Where nothing is free at all the guests run on where they are, and are said to."""
    facts = pool([host("a", 4), host("b", 4)], [vm("x", "b", 4), vm("y", "a", 4)])
    moves, away = go_home(Board.of(facts), {"x": "a", "y": "b"})
    assert moves == []
    assert sorted(away) == ["x", "y"]


def test_a_home_that_lost_its_network_is_not_gone_back_to() -> None:
    """A guest stays away from a home that does not reach what it needs, whatever room there is."""
    facts = pool([host("a", networks="other"), host("b")], [vm("x", "b")])
    assert go_home(Board.of(facts), {"x": "a"}) == ([], ["x"])


def test_a_tight_board_keeps_room_for_big_guests() -> None:
    """Where the roomiest host is not the answer, the tightest one may be."""
    facts = pool([host("a", 12), host("b", 9), host("c", 5)], [vm("x", "a", 5), vm("y", "a", 4), vm("z", "a", 3)])
    board = Board.of(facts).copy(tight=True)
    assert [(m.vm, m.target) for m in empty(board, "a", ["b", "c"], {}, set())] == [("x", "c"), ("y", "b"), ("z", "b")]
