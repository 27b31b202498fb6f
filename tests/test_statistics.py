"""What a host tells of what it measures, and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .test_http_handlers import ask

Make = Callable[..., Any]


def told(c: Any, **query: Any) -> dict[str, Any]:
    """What a host of 8.4 answers in JSON, with numbers for the values."""
    _, text = ask(c, "GET", "/rrd_updates", json="true", **query)
    found: dict[str, Any] = json.loads(text)
    for row in found["data"]:
        row["values"] = [float(value) for value in row["values"]]
    return found


def near(value: float) -> Any:
    """Equal as far as five digits tell."""
    return pytest.approx(value, rel=1e-4, nan_ok=True)


def lately(c: Any) -> dict[str, float]:
    """The newest averages of everything on host1, by name."""
    found = told(c, start=str(int(c.pool.clock.now()) - 10), host="true", cf="AVERAGE")
    return dict(zip(found["meta"]["legend"], found["data"][0]["values"], strict=True))


def test_a_host_tells_how_much_memory_there_is(calls: Make) -> None:
    """Its own and that of the guests on it, now."""
    c = calls(release="8.4", vms=4)
    host, vm = c.host("host1"), c.vm("vm01")
    assert ask(c, "GET", "/rrd_updates")[0].status == 400
    values = lately(c)
    assert values[f"AVERAGE:host:{host['uuid']}:memory_total_kib"] == near(c.pool.machine("host1").memory / 1024)
    assert values[f"AVERAGE:vm:{vm['uuid']}:memory"] == near(vm["memory_static_max"])
    found = told(c, start=str(int(c.pool.clock.now()) - 10), vm_uuid=vm["uuid"])
    assert {name.rpartition(":")[0] for name in found["meta"]["legend"]} == {f"AVERAGE:vm:{vm['uuid']}"}
    out, text = ask(c, "GET", "/rrd_updates", start="-10", vm_uuid="none")
    assert (out.status, b"No_RRA_Available" in text) == (500, True)


@pytest.mark.parametrize(
    ("ago", "interval", "step", "rows"),
    [
        (10, "", 5, 3),
        (599, "5", 5, 120),
        (10, "60", 60, 0),
        (60, "60", 60, 1),
        (600, "", 60, 10),
        (7199, "30", 60, 120),
        (7200, "", 3600, 2),
        (60, "86400", 86400, 0),
        (10**9, "", 86400, 366),
        (-60, "", 5, 0),
    ],
)
def test_an_archive_is_chosen_for_a_client(calls: Make, ago: int, interval: str, step: int, rows: int) -> None:
    """The finest that reaches back far enough and is not finer than the client likes; the newest row comes first. What is
    known of a row is known for half of its time at least."""
    c = calls(release="8.4", vms=1)
    begun = int(c.pool.clock.now()) - 3600
    now = int(c.pool.clock.now()) + 3655
    c.pool.clock.advance(3655)
    found = told(c, start=str(now - ago), cf="AVERAGE", **({"interval": interval} if interval else {}))
    end, meta = now // step * step, found["meta"]
    assert (meta["step"], meta["end"], meta["rows"]) == (step, end, rows)
    assert meta["start"] == (now - ago) // step * step + step
    assert [row["t"] for row in found["data"]] == [end - step * number for number in range(rows)]
    known = [row["values"][0] == row["values"][0] for row in found["data"]]
    assert known == [2 * min(row["t"] - begun + 5, step) >= step for row in found["data"]]


def test_extremes_are_kept_where_the_pool_wants_them(calls: Make) -> None:
    """Of VMs, of what is longer ago than ten minutes, where one row is of many measurements. Of hosts they always are."""
    c = calls(release="8.4", vms=1)
    pool, (now,) = c("pool.get_all")[0], [int(c.pool.clock.now())]

    def functions(**query: str) -> set[str]:
        return {name.partition(":")[0] for name in told(c, **query)["meta"]["legend"]}

    assert functions(start=str(now - 3600)) == {"AVERAGE"}
    assert functions(start=str(now - 3600), host="true", vm_uuid="none") == {"AVERAGE", "MIN", "MAX"}
    assert functions(start=str(now), host="true", vm_uuid="none") == {"AVERAGE"}
    for function, more in (("MIN", {}), ("MIN", {"host": "true"}), ("LAST", {"host": "true", "vm_uuid": "none"})):
        assert ask(c, "GET", "/rrd_updates", start=str(now), cf=function, **more)[0].status == 500
    assert functions(start=str(now), cf="MIN", host="true", vm_uuid="none") == {"MIN"}
    c("pool.add_to_other_config", pool, "create_min_max_in_new_VM_RRDs", "true")
    assert functions(start=str(now - 3600)) == {"AVERAGE", "MIN", "MAX"}
    assert functions(start=str(now)) == {"AVERAGE"}
    found = told(c, start=str(now), cf="MIN")
    assert (found["meta"]["step"], found["meta"]["legend"][0].partition(":")[0]) == (60, "MIN")


def test_statistics_are_spelled_as_the_release_does(calls: Make) -> None:
    """Values are text of five digits in the JSON of XenServer 8; before, they have four decimals, and what is called JSON
    has no quotes around names."""
    texts = {}
    for release, kind in (("8.2", "json"), ("8.4", "json"), ("8.2", "xml")):
        c = calls(release=release, vms=1, hosts=1)
        now, vm = int(c.pool.clock.now()), c.vm("vm01")
        busy = c("VM.query_data_source", vm.ref, "cpu0")
        c.sleep(5)
        now, later = now + 5, c("VM.query_data_source", vm.ref, "cpu0")
        more = {"json": "true"} if kind == "json" else {}
        texts[release, kind] = ask(c, "GET", "/rrd_updates", start=str(now - 5), vm_uuid=vm["uuid"], **more)[1].decode()
    names = [f"AVERAGE:vm:{vm['uuid']}:{name}" for name in ("cpu0", "memory", "vbd_xvda_write", "vif_0_rx", "vif_0_tx")]
    memory = vm["memory_static_max"]
    assert busy != later
    rest = f"{memory:.4f},0.0,0.0,0.0"
    place = (now, now, 2, 5)
    entries = ",".join(f'"{name}"' for name in names)
    assert texts["8.2", "json"] == (
        f"{{meta: {{start:{now},step:5,end:{now},rows:2,columns:5,legend:[{entries}]}},"
        f"data:[{{t:{now},values:[{later:.4f},{rest}]}},{{t:{now - 5},values:[{busy:.4f},{rest}]}}]}}"
    )
    document = json.loads(texts["8.4", "json"])
    assert tuple(document["meta"][key] for key in ("start", "end", "rows", "columns")) == place
    assert document["meta"]["legend"] == names
    assert document["data"][0] == {"t": now, "values": [f"{later:.5g}", f"{memory:.5g}", "0.0", "0.0", "0.0"]}
    assert document["data"][1] == {"t": now - 5, "values": [f"{busy:.5g}", f"{memory:.5g}", "0.0", "0.0", "0.0"]}
    values = f"<v>{later:.4f}</v><v>{memory:.4f}</v><v>0.0</v><v>0.0</v><v>0.0</v>"
    assert f"<row><t>{now}</t>{values}</row><row><t>{now - 5}</t><v>{busy:.4f}</v>" in texts["8.2", "xml"]
    assert f"<legend>{''.join(f'<entry>{name}</entry>' for name in names)}</legend>" in texts["8.2", "xml"]


def test_what_is_recorded_is_what_the_api_lists(calls: Make) -> None:
    """Of the host and of each guest on it, with the values that a query has, and nothing that is switched off."""
    c = calls(release="8.4", vms=4)
    host, vm = c.host("host1"), c.vm("vm01")
    c("host.forget_data_source_archives", host.ref, "loadavg")
    c("VM.record_data_source", vm.ref, "memory_target")
    values = lately(c)
    for table, row in (("host", host), ("VM", vm)):
        listed = {source["name_label"]: source["enabled"] for source in c(f"{table}.get_data_sources", row.ref)}
        on = {name for name, enabled in listed.items() if enabled}
        prefix = f"AVERAGE:{table.lower()}:{row['uuid']}:"
        assert {name.removeprefix(prefix) for name in values if name.startswith(prefix)} == on < set(listed)
        for name in on:
            assert values[prefix + name] == near(c(f"{table}.query_data_source", row.ref, name))
    assert {f"AVERAGE:vm:{vm['uuid']}:{name}" for name in ("cpu0", "memory_target", "vif_0_rx")} <= set(values)


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
    """By its header `Accept` since XenServer 8, else by the argument `json`; before, by that alone, and what is called JSON
    is not said to be."""
    query = {"start": "0", **({"json": ""} if json_too else {})}
    for release, expected in (("8.4", kind), ("8.2", "json" if json_too else "xml")):
        out, text = ask(calls(release=release), "GET", "/rrd_updates", headers={"accept": accept}, **query)
        kinds = {"json": "application/json" if release == "8.4" else None, "xml": "text/xml"}
        assert out.headers.get("content-type") == kinds[expected]
        assert text.startswith(b"{" if expected == "json" else b"<")


def test_an_old_host_takes_arguments_otherwise(calls: Make) -> None:
    """Up to 6.5 it is told of wherever it is mentioned, and `all` is taken for a VM's uuid; from 7.0 to 8.2 what is called
    JSON cannot be without rows."""
    for release, statuses, mentioned in (
        ("6.5", (500, 200), True),
        ("8.2", (200, 500), False),
        ("8.4", (200, 200), False),
    ):
        c = calls(release=release, vms=1)
        now = int(c.pool.clock.now())
        everyone = ask(c, "GET", "/rrd_updates", start=str(now - 5), vm_uuid="all")[0].status
        no_rows = ask(c, "GET", "/rrd_updates", start=str(now + 5), json="true")[0].status
        assert (everyone, no_rows) == statuses
        assert (b"host:" in ask(c, "GET", "/rrd_updates", start=str(now), host="false")[1]) == mentioned


def test_an_interval_that_no_archive_has_is_refused(calls: Make) -> None:
    """A day is the longest."""
    c = calls(release="8.2", vms=1)
    assert ask(c, "GET", "/rrd_updates", start="0", interval="86400")[0].status == 200
    out, text = ask(c, "GET", "/rrd_updates", start="0", interval="86405")
    assert (out.status, b"No_RRA_Available" in text) == (500, True)


def test_nothing_is_measured_of_storage(calls: Make) -> None:
    """Asking for it adds nothing, as there are no sources."""
    c = calls(release="8.2", vms=1)
    sr = c.row("SR", "NFS virtual disk storage")
    assert c("SR.get_data_sources", sr.ref) == []
    texts = {ask(c, "GET", "/rrd_updates", start="-5", **more)[1] for more in ({}, {"sr_uuid": sr["uuid"]})}
    assert len(texts) == 1
