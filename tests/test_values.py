"""Values: dates, converters from the wire, references, and lazy records."""

from __future__ import annotations

import copy
import math
import pickle
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenctl import values as v
from xenctl import xmlrpc
from xenctl.api.VM import VM
from xenctl.values import EPOCH, NULL, Field, Record, Ref, Timestamp, format_datetime, parse_datetime


class TestDates:
    """XenAPI's form of a date and time."""

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("20260131T23:59:59Z", datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc)),
            ("20260131T23:59:59", datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc)),
            ("20260131T23:59:59+02:00", datetime(2026, 1, 31, 21, 59, 59, tzinfo=timezone.utc)),
            ("20260131T23:59:59-0130", datetime(2026, 2, 1, 1, 29, 59, tzinfo=timezone.utc)),
            ("20260131T23:59:59-00:00", datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc)),
            ("2026-01-31T23:59:59Z", datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc)),
            ("2026-01-31 23:59:59.25Z", datetime(2026, 1, 31, 23, 59, 59, 250_000, tzinfo=timezone.utc)),
            ("2026-01-31T23:59:59.123456789+01:00", datetime(2026, 1, 31, 22, 59, 59, 123_456, tzinfo=timezone.utc)),
            ("19700101T00:00:00Z", EPOCH),
            ("00010101T00:00:00Z", datetime(1, 1, 1, tzinfo=timezone.utc)),
        ],
    )
    def test_dates_are_read_in_both_forms(self, text: str, moment: datetime) -> None:
        """xapi's own form and RFC 3339 give aware dates; without a zone they are UTC, as xapi takes them."""
        assert parse_datetime(text) == moment
        assert parse_datetime(text).tzinfo is not None
        assert v.to_datetime(Timestamp(text)) == moment

    @pytest.mark.parametrize(
        "text",
        ["", "now", "2026", "20260131", "20260132T00:00:00Z", "20261301T00:00:00Z", "00000101T00:00:00Z",
         "20260131T24:00:00Z", "20260131T23:59:59z", "20260131T23:59:59+99:00", "20260131T23:59:59Z\n",
         " 20260131T23:59:59Z", "\u0662\u0660260131T23:59:59Z"],
    )  # fmt: skip
    def test_what_is_no_date_is_refused(self, text: str) -> None:
        """Anything else is a `ValueError`."""
        with pytest.raises(ValueError):
            parse_datetime(text)

    @pytest.mark.parametrize(
        ("moment", "text"),
        [
            (datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc), "20260131T23:59:59Z"),
            (datetime(2026, 1, 31, 23, 59, 59), "20260131T23:59:59Z"),  # noqa: DTZ001 - what users pass
            (datetime(2026, 2, 1, 1, 59, 59, 999, tzinfo=timezone(timedelta(hours=2))), "20260131T23:59:59Z"),
            (datetime(987, 6, 5, tzinfo=timezone.utc), "09870605T00:00:00Z"),
        ],
    )
    def test_dates_are_written_in_xapis_form(self, moment: datetime, text: str) -> None:
        """Zones are converted to UTC, fractions of a second dropped, years have four digits."""
        assert format_datetime(moment) == text
        assert type(format_datetime(moment)) is Timestamp

    @given(st.datetimes(timezones=st.just(timezone.utc)).map(lambda moment: moment.replace(microsecond=0)))
    def test_what_is_written_is_read(self, moment: datetime) -> None:
        """Every second of every year comes back."""
        assert parse_datetime(format_datetime(moment)) == moment


CONVERTED: list[tuple[v.Converter[Any], Any, Any]] = [
    (v.to_string, "a", "a"),
    (v.to_string, "", ""),
    (v.to_int, "123", 123),
    (v.to_int, "-9223372036854775808", -(2**63)),
    (v.to_int, 5, 5),
    (v.to_int, 2**53 + 1, 2**53 + 1),
    (v.to_float, 1.5, 1.5),
    (v.to_float, "1.5", 1.5),
    (v.to_float, "-inf", -math.inf),
    (v.to_float, 3, 3.0),
    (v.to_bool, True, True),
    (v.to_bool, False, False),
    (v.to_datetime, "19700101T00:00:00Z", EPOCH),
    (v.to_void, "", None),
    (v.to_void, "anything", None),
    (v.to_any, {"a": [1, True, 1.5, "x", None]}, {"a": ["1", True, 1.5, "x", None]}),
    (v.to_ref, "OpaqueRef:1", "OpaqueRef:1"),
    (v.to_enum, "a_value_of_tomorrow", "a_value_of_tomorrow"),
    (v.to_strings, ["b", "a"], ["b", "a"]),
    (v.to_strings, [], []),
    (v.to_refs, ["OpaqueRef:1"], ["OpaqueRef:1"]),
    (v.to_string_map, {"a": "b"}, {"a": "b"}),
    (v.to_list(v.to_int), ["1", "2"], [1, 2]),
    (v.to_map(v.to_int, v.to_float), {"0": 0.5, "1": "1"}, {0: 0.5, 1: 1.0}),
    (v.to_map(v.to_string, v.to_list(v.to_string)), {"a": ["b"]}, {"a": ["b"]}),
    (v.to_option(v.to_int), None, None),
    (v.to_option(v.to_int), "1", 1),
]

UNCONVERTIBLE: list[tuple[v.Converter[Any], Any, str]] = [
    (v.to_string, 1, "expected text, got 1"),
    (v.to_string, None, "expected text, got None"),
    (v.to_string, b"a", "expected text"),
    (v.to_int, "", "expected a whole number, got ''"),
    (v.to_int, "1.0", "expected a whole number"),
    (v.to_int, "1_000", "expected a whole number"),
    (v.to_int, " 1", "expected a whole number"),
    (v.to_int, "1\n", "expected a whole number"),
    (v.to_int, "\u0661", "expected a whole number"),
    (v.to_int, "9" * 5000, "expected a whole number"),
    (v.to_int, True, "expected a whole number, got True"),
    (v.to_int, 1.0, "expected a whole number, got 1.0"),
    (v.to_float, "a", "expected a number, got 'a'"),
    (v.to_float, "1_0", "expected a number"),
    (v.to_float, "\u0661", "expected a number"),
    (v.to_float, True, "expected a number"),
    (v.to_float, None, "expected a number"),
    (v.to_bool, "1", "expected a boolean, got '1'"),
    (v.to_bool, 1, "expected a boolean"),
    (v.to_datetime, "yesterday", "not a date and time: 'yesterday'"),
    (v.to_datetime, 5, "expected text"),
    (v.to_strings, "a", "expected an array of text"),
    (v.to_strings, [1], "expected an array of text"),
    (v.to_string_map, [], "expected a struct of text"),
    (v.to_string_map, {"a": 1}, "expected a struct of text"),
    (v.to_list(v.to_int), {"a": 1}, "expected an array"),
    (v.to_list(v.to_int), ["a"], "expected a whole number"),
    (v.to_map(v.to_string, v.to_int), [], "expected a struct"),
    (v.to_map(v.to_int, v.to_int), {"a": "1"}, "expected a whole number, got 'a'"),
    (v.to_record("VM"), "OpaqueRef:1", "expected a record of VM, got 'OpaqueRef:1'"),
    (v.to_record("VM"), [], "expected a record of VM"),
]


class TestConverters:
    """Wire values to Python values."""

    @pytest.mark.parametrize(("convert", "wire", "value"), CONVERTED)
    def test_a_value_of_the_type(self, convert: v.Converter[Any], wire: Any, value: Any) -> None:
        """XML-RPC's digits without a tag and JSON's numbers give the same."""
        assert convert(wire) == value
        assert type(convert(wire)) is type(value)

    @pytest.mark.parametrize(("convert", "wire", "message"), UNCONVERTIBLE)
    def test_a_value_of_another_type(self, convert: v.Converter[Any], wire: Any, message: str) -> None:
        """The error says what was expected and shows the beginning of what came."""
        with pytest.raises(ValueError, match=message) as caught:
            convert(wire)
        assert len(str(caught.value)) < 200

    def test_collections_are_copies(self) -> None:
        """What a converter gives belongs to the caller."""
        wire = {"a": "b"}
        v.to_string_map(wire)["c"] = "d"
        assert wire == {"a": "b"}

    def test_converters_are_made_once(self) -> None:
        """The thousands of fields of the same type share one converter."""
        assert v.to_list(v.to_int) is v.to_list(v.to_int)
        assert v.to_record("VM") is v.to_record("VM")

    def test_a_reference_is_text(self) -> None:
        """References cost nothing at run time."""
        assert type(Ref("OpaqueRef:1")) is str
        assert NULL == "OpaqueRef:NULL"
        reference: Ref[VM] = Ref[VM]("OpaqueRef:1")
        assert reference == "OpaqueRef:1"


CONVERTED_FIELDS: list[str] = []


def counting(value: Any) -> int:
    """A converter that remembers what it converted."""
    CONVERTED_FIELDS.append(value)
    return v.to_int(value)


class sample(Record):  # noqa: N801 - named as XenAPI names its classes
    """A record of every kind of field."""

    _class_name = "sample"

    uuid: Field[str] = Field(v.to_string)
    name_label: Field[str] = Field(v.to_string)
    size: Field[int] = Field(counting)
    class_: Field[str] = Field(v.to_string)
    config: Field[dict[str, str]] = Field(v.to_string_map)
    newer: Field[bool] = Field(v.to_bool)


WIRE = {"uuid": "u-1", "name_label": "a", "size": "5", "class": "c", "config": {"k": "v"}, "unknown": "kept"}


@pytest.fixture(autouse=True)
def nothing_converted() -> None:
    """Forget earlier conversions."""
    CONVERTED_FIELDS.clear()


class TestRecords:
    """One object's fields."""

    def test_a_field_is_converted_when_it_is_first_read(self) -> None:
        """Ten thousand records of which three fields are read cost three conversions each."""
        records = [sample({**WIRE, "size": str(number)}) for number in range(100)]
        assert CONVERTED_FIELDS == []
        assert [records[7].size, records[7].size, records[9].size] == [7, 7, 9]
        assert CONVERTED_FIELDS == ["7", "9"]

    def test_it_is_a_mapping_too(self) -> None:
        """Items have the wire names and the Python values, in the order of the server."""
        record = sample(WIRE)
        assert record["size"] == 5
        assert record["class"] == record.class_ == "c"
        assert list(record) == list(WIRE)
        assert len(record) == 6
        assert dict(record) == {**WIRE, "size": 5}
        assert record.get("newer") is None
        assert record.get("newer", "default") == "default"
        assert {**record}["config"] == {"k": "v"}

    def test_asking_for_a_name_converts_nothing(self) -> None:
        """Whether a field is there does not depend on what is in it."""
        record = sample({"size": "many"})
        assert "size" in record
        assert "newer" not in record
        assert "class_" not in record
        assert CONVERTED_FIELDS == []

    def test_a_field_that_the_model_does_not_know(self) -> None:
        """What a newer server sends is there as an item, as it came."""
        record = sample(WIRE)
        assert record["unknown"] == "kept"
        assert not hasattr(record, "unknown")

    def test_a_field_that_the_host_did_not_send(self) -> None:
        """An older release does not have it; as an attribute the error says so, as an item it is a key that is not there."""
        record = sample(WIRE)
        with pytest.raises(
            AttributeError, match="the host sent no field 'newer' with this sample record: its release does not have it"
        ):
            _ = record.newer
        with pytest.raises(KeyError, match="newer"):
            record["newer"]
        assert getattr(record, "newer", None) is None
        with pytest.raises(AttributeError, match="'class' with this sample"):
            _ = sample({}).class_

    def test_a_name_that_is_no_field(self) -> None:
        """A slip of the pen is Python's own error."""
        with pytest.raises(AttributeError, match="no attribute 'name_lable'"):
            _ = sample(WIRE).name_lable  # type: ignore[attr-defined]
        with pytest.raises(KeyError):
            sample(WIRE)["class_"]

    @pytest.mark.parametrize(("wire", "identity"), [({**WIRE, "size": "five"}, "u-1"), ({"size": "five"}, r"\?")])
    def test_a_bad_scalar_names_class_object_and_field(self, wire: dict[str, Any], identity: str) -> None:
        """The record is there; reading the field says what is wrong with it, each time, by either way."""
        record = sample(wire)
        message = rf"^sample {identity}: field size: expected a whole number, got 'five'$"
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                _ = record.size
            with pytest.raises(ValueError, match=message):
                record["size"]
        with pytest.raises(ValueError, match=message):
            dict(record)

    def test_a_bad_scalar_of_a_record_read_in_bulk(self) -> None:
        """The same for records whose fields are still text on the wire."""
        wires = {
            f"OpaqueRef:{number}": {"uuid": f"u-{number}", "x": "y" * 100, "progress": 0.5} for number in range(50)
        }
        data = xmlrpc.dumps_success(wires).replace(b"<double>0.5</double>", b"<double>half</double>", 1)
        from xenctl.api.task import task

        records = v.to_map(v.to_string, v.to_record("task"))(xmlrpc.loads_response(data, lazy=True))
        assert [type(record) for record in records.values()] == [task] * 50
        assert records["OpaqueRef:1"].progress == 0.5
        with pytest.raises(ValueError, match=r"^task u-0: field progress: "):
            _ = records["OpaqueRef:0"].progress

    def test_a_record_does_not_change(self) -> None:
        """It is a picture; the error says how the object itself is changed."""
        record = sample(WIRE)
        with pytest.raises(AttributeError, match="cannot be changed: use set_name_label"):
            record.name_label = "b"  # type: ignore[assignment]
        with pytest.raises(AttributeError, match="cannot be changed"):
            record.anything = 1
        assert record.size == 5
        with pytest.raises(AttributeError, match="size cannot be deleted"):
            del record.size
        with pytest.raises(TypeError):
            record["size"] = 6  # type: ignore[index]
        assert record == sample(WIRE)

    def test_records_compare_by_content(self) -> None:
        """Class and fields count, not which of them have been read; records are no keys."""
        one, other = sample(WIRE), sample(dict(reversed(WIRE.items())))
        assert one.size == 5
        assert one == other
        assert one != sample({**WIRE, "size": "6"})
        assert one != VM(WIRE)
        assert one != dict(one)
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)

    @pytest.mark.parametrize("again", [lambda r: pickle.loads(pickle.dumps(r)), copy.copy, copy.deepcopy])  # noqa: S301 - our own
    def test_records_survive_pickling_and_copying(self, again: Any) -> None:
        """A record can be handed to another process, its wire form with it."""
        record = VM(
            {
                "uuid": "u",
                "name_label": "a",
                "memory_static_max": "1024",
                "snapshot_time": Timestamp("19700101T00:00:00Z"),
            }
        )
        assert record.memory_static_max == 1024
        twin = again(record)
        assert type(twin) is VM
        assert twin == record
        assert (twin.memory_static_max, twin.snapshot_time) == (1024, EPOCH)

    def test_a_records_text_names_the_object(self) -> None:
        """By its name, else its uuid."""
        assert repr(sample(WIRE)) == "<sample 'a'>"
        assert repr(sample({"uuid": "u-1", "name_label": ""})) == "<sample 'u-1'>"
        assert repr(sample({})) == "<sample ''>"
