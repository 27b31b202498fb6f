"""Planning in numbers: packing, and whether a layout survives its failures."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockserver.binpack import Layout, account, pack, survives


def layout(hosts: dict[str, int], vms: dict[str, int], placed: dict[str, str], failures: int, total: int = 0) -> Layout:
    return Layout(hosts, vms, placed, total or len(hosts), failures)


def test_the_largest_goes_where_most_room_is() -> None:
    """One after another; what does not fit there is left out, also where two smaller holes would do."""
    assert pack({"a": 3, "b": 5, "c": 4}, {"x": 8, "y": 6}) == {"b": "x", "c": "y", "a": "x"}
    assert pack({"a": 5, "b": 4, "c": 3}, {"x": 10, "y": 4}) == {"a": "x", "b": "x", "c": "y"}
    assert pack({"a": 7, "b": 2}, {"x": 6, "y": 1}) == {"b": "x"}
    assert pack({"a": 1}, {}) == {}


def test_a_plan_takes_its_room() -> None:
    """What is free is less afterwards; a host that the layout does not have does not matter."""
    assert account({"x": 5, "y": 5}, {"a": 2, "b": 3}, {"a": "x", "b": "gone"}) == {"x": 3, "y": 5}


def test_a_failed_hosts_vms_are_placed_anew() -> None:
    """In the layout that is left; where they do not fit there is none."""
    before = layout({"x": 0, "y": 4, "z": 1}, {"a": 3, "b": 2}, {"a": "x", "b": "y"}, 1)
    after = before.without("x")
    assert after is not None
    assert (after.hosts, after.placed) == ({"y": 1, "z": 1}, {"a": "y", "b": "y"})
    assert before.without("x") is not None
    assert layout({"x": 0, "y": 2}, {"a": 3}, {"a": "x"}, 1).without("x") is None


@pytest.mark.parametrize(
    ("hosts", "failures", "vms", "answer"),
    [
        ({"x": 9}, 1, {}, True),
        ({"x": 9}, 1, {"a": 1}, False),
        ({"x": 9}, 2, {}, False),
        ({"x": 9, "y": 9}, 0, {"a": 1}, True),
        ({"x": 9, "y": 9}, -1, {}, False),
        ({"x": 9, "y": 9}, 1, {"a": 1}, True),
        ({"x": 9, "y": 0}, 1, {"a": 1}, False),
    ],
)
def test_too_few_hosts_are_no_plan(hosts: dict[str, int], failures: int, vms: dict[str, int], answer: bool) -> None:
    """Some host must be left for VMs, with room for them."""
    assert survives(layout(hosts, vms, dict.fromkeys(vms, "x"), failures)) is answer


def in_every_order(at: Layout) -> bool:
    """The plain way to say the same: choose the hosts that fail, and play through every order of them."""
    for chosen in combinations(at.hosts, at.failures):
        for order in permutations(chosen):
            left: Layout | None = at
            for host in order:
                left = left.without(host) if left is not None else None
            if left is None:
                return False
    return True


SIZES = st.integers(0, 12)


@given(
    hosts=st.lists(SIZES, min_size=1, max_size=4),
    vms=st.lists(st.tuples(SIZES, SIZES), max_size=5),
    n=st.integers(0, 3),
)
def test_small_pools_are_played_through(hosts: list[int], vms: list[tuple[int, int]], n: int) -> None:
    """The answer is that of every combination of failing hosts in every order."""
    names = [f"h{number}" for number in range(len(hosts))]
    sizes = {f"v{number}": size for number, (size, _) in enumerate(vms)}
    placed = {f"v{number}": names[at % len(names)] for number, (_, at) in enumerate(vms)}
    at = layout(dict(zip(names, hosts, strict=True)), sizes, placed, n)
    if n < len(names) or (n == len(names) and not vms):
        assert survives(at) is in_every_order(at)


def test_large_pools_take_the_worst_for_granted() -> None:
    """The hosts with most room fail, and every VM is as large as the largest: a plan that exists may not be found."""
    hosts = {f"h{number}": 10 for number in range(40)}
    vms = {"large": 10, **{f"v{number}": 1 for number in range(40)}}
    placed = {vm: f"h{number % 40}" for number, vm in enumerate(vms)}
    assert survives(layout(hosts, vms, placed, 2))
    assert not survives(layout(dict.fromkeys(hosts, 9), vms, placed, 2))
    assert survives(layout(dict.fromkeys(hosts, 9), {**vms, "large": 9}, placed, 2))
    assert survives(layout(hosts, {}, {}, 2))
    roomy = {**dict.fromkeys(hosts, 0), "h0": 100, "h1": 100}
    small = {f"v{number}": 10 for number in range(2, 40)}
    assert not survives(layout(roomy, small, {vm: vm.replace("v", "h") for vm in small}, 2))


def test_many_orders_are_not_played_through() -> None:
    """In a pool of few hosts either, where too many of them may fail."""
    hosts = {f"h{number}": 3 for number in range(20)}
    vms = {"large": 4, "small": 1}
    fits = layout(hosts, vms, {"small": "h0"}, 2)
    assert survives(fits)
    assert not survives(layout(hosts, vms, {"small": "h0"}, 3))
