"""What a host tells of what it measures, and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .test_http_handlers import ask

Make = Callable[..., Any]


def test_a_host_tells_how_much_memory_there_is(calls: Make) -> None:
    """Its own and that of the guests on it, now; in XML, or in JSON."""
    c = calls(release="8.2", vms=4)
    host, vm, now = c.host("host1"), c.vm("vm01"), int(c.pool.clock.now())
    assert ask(c, "GET", "/rrd_updates")[0].status == 400
    _, text = ask(c, "GET", "/rrd_updates", start="0", host="true", json="true")
    told = json.loads(text)
    values = dict(zip(told["meta"]["legend"], told["data"][0]["values"], strict=True))
    assert values[f"AVERAGE:host:{host['uuid']}:memory_total_kib"] == c.pool.machine("host1").memory / 1024
    assert values[f"MAX:vm:{vm['uuid']}:memory"] == vm["memory_static_max"]
    assert (told["meta"]["rows"], told["data"][0]["t"]) == (1, now // 5 * 5)
    _, text = ask(c, "GET", "/rrd_updates", start="0", cf="MIN", vm_uuid=vm["uuid"])
    assert b"<columns>5</columns><legend>" in text
    assert f"<entry>MIN:vm:{vm['uuid']}:memory</entry>".encode() in text
    assert b"<data></data>" in ask(c, "GET", "/rrd_updates", start=str(now + 60))[1]


@pytest.mark.parametrize("release", ["5.0.0", "8.2"])
def test_what_is_recorded_is_what_the_api_lists(calls: Make, release: str) -> None:
    """Of the host and of each guest on it, with the values that a query has, and nothing that is switched off."""
    c = calls(release=release, vms=4)
    host, vm = c.host("host1"), c.vm("vm01")
    c("host.forget_data_source_archives", host.ref, "loadavg")
    c("VM.record_data_source", vm.ref, "memory_target")
    _, text = ask(c, "GET", "/rrd_updates", start="0", host="true", cf="AVERAGE", json="true")
    told = json.loads(text)
    values = dict(zip(told["meta"]["legend"], told["data"][0]["values"], strict=True))
    for table, row in (("host", host), ("VM", vm)):
        listed = {source["name_label"]: source["enabled"] for source in c(f"{table}.get_data_sources", row.ref)}
        on = {name for name, enabled in listed.items() if enabled}
        prefix = f"AVERAGE:{table.lower()}:{row['uuid']}:"
        assert {name.removeprefix(prefix) for name in values if name.startswith(prefix)} == on < set(listed)
        for name in on:
            assert values[prefix + name] == c(f"{table}.query_data_source", row.ref, name)
    assert {f"vm:{vm['uuid']}:{name}" for name in ("cpu0", "memory_target", "vif_0_rx")} <= {
        name.removeprefix("AVERAGE:") for name in values
    }


@pytest.mark.parametrize(
    ("accept", "json_too", "kind"),
    [
        ("application/json", False, "json"),
        ("text/xml", True, "xml"),
        ("*/*", False, "json"),
        ("text/*", True, "xml"),
        ("text/xml,application/json", False, "json"),
        ("text/xml,application/json;q=0.9", True, "xml"),
        ("image/png,text/xml;q=0.1", True, "xml"),
        ("image/png", False, "xml"),
        ("image/png", True, "json"),
        ("nonsense", True, "json"),
        ("text/xml;level", True, "json"),
        ("", False, "xml"),
    ],
)
def test_statistics_come_as_the_client_likes_them(calls: Make, accept: str, json_too: bool, kind: str) -> None:
    """By its header `Accept` since XenServer 8, else by the argument `json`; before, by that alone."""
    query = {"start": "0", **({"json": ""} if json_too else {})}
    for release, expected in (("8.4", kind), ("8.2", "json" if json_too else "xml")):
        out, text = ask(calls(release=release), "GET", "/rrd_updates", headers={"accept": accept}, **query)
        assert out.headers["content-type"] == {"json": "application/json", "xml": "text/xml"}[expected]
        assert text.startswith(b"{" if expected == "json" else b"<")


def test_nothing_is_measured_of_storage(calls: Make) -> None:
    """Asking for it adds nothing, as there are no sources."""
    c = calls(release="8.2", vms=1)
    sr = c.row("SR", "NFS virtual disk storage")
    assert c("SR.get_data_sources", sr.ref) == []
    texts = {ask(c, "GET", "/rrd_updates", start="0", **more)[1] for more in ({}, {"sr_uuid": sr["uuid"]})}
    assert len(texts) == 1
