"""The fast reading of records against the plain walk: the same values or the same refusal, on valid and on mutated bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mockserver import MockPool
from xenctl import bulk, xmlrpc
from xenctl.errors import Failure
from xenctl.values import Timestamp

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXT,
    "number": st.integers(-(2**63), 2**63 - 1),
    "yes": st.booleans(),
    "ratio": st.floats(allow_nan=False),
    "moment": st.just(Timestamp("20260101T00:00:00Z")),
    "set": st.lists(TEXT, max_size=4),
    "map": st.dictionaries(TEXT, TEXT, max_size=4),
}
RECORDS = st.dictionaries(
    st.uuids().map(lambda u: f"OpaqueRef:{u}"),
    st.fixed_dictionaries(FIELDS).map(lambda found: {name: found[name] for name in FIELDS}),
    min_size=1,
    max_size=5,
)


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small answers take the fast path too."""
    monkeypatch.setattr(bulk, "LEAST", 0)


def walked(data: bytes) -> Any:
    """What the plain walk makes of an answer; None where it refuses it."""
    try:
        return xmlrpc.walk_response(data)
    except (xmlrpc.MalformedError, Failure):
        return None


def eagerly(records: dict[str, Any] | None) -> dict[str, Any] | None:
    """Lazy records with every field read; None where one cannot be."""
    try:
        return None if records is None else {ref: dict(record) for ref, record in records.items()}
    except ValueError:
        return None


@settings(max_examples=200, deadline=None)
@given(records=RECORDS)
def test_valid_records_are_the_same_as_walked(records: dict[str, Any]) -> None:
    """Eager and lazy reading give what the walk gives, type for type."""
    data = xmlrpc.dumps_success(records)
    expected = walked(data)
    assert bulk.decode(data, lazy=False) == expected
    lazy = bulk.decode(data, lazy=True)
    assert eagerly(lazy) == expected
    assert {type(v) for r in expected.values() for v in r.values()} == {
        type(v) for r in (lazy or {}).values() for v in dict(r).values()
    }


@settings(max_examples=400, deadline=None)
@given(records=RECORDS, place=st.floats(0, 1), cut=st.integers(0, 6), junk=st.binary(max_size=6))
def test_mutated_bytes_are_never_read_differently(records: dict[str, Any], place: float, cut: int, junk: bytes) -> None:
    """Whatever is done to the bytes, the fast path gives what the walk gives, or leaves it to the walk."""
    data = xmlrpc.dumps_success(records)
    at = int(place * len(data))
    mutated = data[:at] + junk + data[at + cut :]
    expected = walked(mutated)
    for lazy in (False, True):
        found = eagerly(bulk.decode(mutated, lazy=lazy))
        assert found is None or found == expected


@pytest.mark.parametrize(
    "junk",
    [
        b"&apos;",
        b"&#233;",
        b"&unknown;",
        b"\x00",
        b"\r\n",
        b"]]>",
        b"\xff",
        "é".encode(),
        b"<i4>1</i4>",
        b"&lt",
        b"\xef\xbf\xbf",
    ],
)
def test_odd_leaves(junk: bytes) -> None:
    """Entities, control characters, line ends, bad UTF-8 and unexpected tags in a leaf are read as the walk reads them."""
    data = xmlrpc.dumps_success({"OpaqueRef:1": {"a": "here", "b": "x"}}).replace(b"here", junk)
    expected = walked(data)
    found = [eagerly(bulk.decode(data, lazy=lazy)) for lazy in (False, True)]
    assert all(f is None or f == expected for f in found)
    if expected is None:
        assert found == [None, None]


@pytest.mark.parametrize(
    "value",
    ["", "text", [], {}, ["a"], {"a": "b"}, {"OpaqueRef:1": {}}, {"OpaqueRef:1": {"a": {"b": ["c"]}}}, [{"a": "b"}]],
)
def test_other_answers_are_left_to_the_walk(value: Any) -> None:
    """What is not a map of flat records is none of its business."""
    assert bulk.decode(xmlrpc.dumps_success(value), lazy=False) is None


def test_records_of_different_shape_are_left_to_the_walk() -> None:
    """Each record must have the first one's fields in its order."""
    records: dict[str, Any] = {"OpaqueRef:1": {"a": "1", "b": "2"}, "OpaqueRef:2": {"b": "2", "a": "1"}}
    assert bulk.decode(xmlrpc.dumps_success(records), lazy=False) is None


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_every_class_of_a_pool_is_read_alike(release: str) -> None:
    """The records that the fake serves, class by class."""
    pool = MockPool.create(release=release)
    session = pool.dispatch("session.login_with_password", ["root", "secret"])
    fast = 0
    for name in ("VM", "host", "SR", "VDI", "VBD", "VIF", "PBD", "PIF", "VM_metrics", "host_cpu", "pool", "network"):
        data = xmlrpc.dumps_success(pool.dispatch(f"{name}.get_all_records", [session]))
        found = bulk.decode(data, lazy=False)
        fast += found is not None
        assert found is None or found == walked(data)
        assert eagerly(bulk.decode(data, lazy=True)) in (None, walked(data))
    assert fast >= 11


def test_a_wire_record_is_a_mapping() -> None:
    """Names in order, length, membership, and KeyError for what is not there."""
    data = xmlrpc.dumps_success({"OpaqueRef:1": {"name_label": "a & b", "memory": 5}})
    (record,) = (bulk.decode(data, lazy=True) or {}).values()
    assert list(record) == ["name_label", "memory"]
    assert (len(record), record["name_label"], record["memory"]) == (2, "a & b", "5")
    with pytest.raises(KeyError):
        record["uuid"]
