"""`/host_rrd`, `/vm_rrd` and `/sr_rrd`: whole archives, read as the programs do that watch hosts."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from lxml import etree

from mockserver import PoolServer
from xenctl import connect

from .test_http_handlers import ask, new_task, outcome
from .test_statistics import near, told

Make = Callable[..., Any]
Row = tuple[int, dict[str, float]]
ROWS = {1: 120, 12: 120, 720: 168, 17280: 366}
"""How many rows an archive has, by how many measurements make one."""


@dataclass(frozen=True)
class Rrd:
    """A whole archive: the sources, and by function and measurements in a row the rows, the oldest first: the time of each
    and its values by name."""

    last: int
    sources: dict[str, dict[str, str]]
    rows: dict[tuple[str, int], list[Row]]

    def points(self, name: str, steps: int, function: str = "AVERAGE") -> dict[int, float]:
        """The values of one source, by time."""
        return {time: values[name] for time, values in self.rows[function, steps]}


def rrd(last: int, sources: list[dict[str, str]], archives: list[tuple[str, int, list[list[float]]]]) -> Rrd:
    """An archive from its parts. The times of rows are counted back from the last update, as XenCenter counts them."""
    names, rows = [source["name"] for source in sources], {}
    for function, steps, found in archives:
        newest = last - last % (5 * steps)
        times = [newest - 5 * steps * number for number in reversed(range(len(found)))]
        rows[function, steps] = [
            (time, dict(zip(names, values, strict=True))) for time, values in zip(times, found, strict=True)
        ]
    return Rrd(last, dict(zip(names, sources, strict=True)), rows)


def read_xml(text: bytes) -> Rrd:
    """An archive in XML."""
    root = etree.fromstring(text)
    assert (root.tag, root.findtext("version"), root.findtext("step")) == ("rrd", "0003", "5")
    sources = [{member.tag: member.text for member in source} for source in root.findall("ds")]
    archives = []
    for archive in root.findall("rra"):
        assert len(archive.findall("cdp_prep/ds")) == len(sources)
        found = [[float(v.text) for v in row] for row in archive.findall("database/row")]
        archives.append((archive.findtext("cf"), int(archive.findtext("pdp_per_row")), found))
    return rrd(int(root.findtext("lastupdate")), sources, archives)


def read_json(text: bytes) -> Rrd:
    """An archive in JSON whose values are text, or numbers."""
    found = json.loads(text)
    assert (found["version"], int(found["step"])) == ("0003", 5)
    archives = [
        (one["cf"], int(one["pdp_per_row"]), [[float(value) for value in row] for row in one["database"]])
        for one in found["rra"]
    ]
    assert all(len(one["cdp_prep"]["ds"]) == len(found["ds"]) for one in found["rra"])
    return rrd(int(float(found["lastupdate"])), found["ds"], archives)


def whole(c: Any, path: str, on: str = "host1", **query: Any) -> Rrd:
    """What `path` answers in XML."""
    out, text = ask(c, "GET", path, on=on, **query)
    assert out.status == 200, text
    return read_xml(text)


def enabled(c: Any, table: str, ref: str) -> list[str]:
    """The sources that are recorded, as the API lists them."""
    return [source["name_label"] for source in c(f"{table}.get_data_sources", ref) if source["enabled"]]


# --- what is in them


@pytest.mark.parametrize("release", ["5.0.0", "6.1", "7.0", "8.0", "8.2", "8.4"])
def test_an_archive_has_every_source_in_every_row(calls: Make, release: str) -> None:
    """With as many rows as hosts keep, known or not, and the newest as a query tells it. Of hosts there are extremes."""
    c = calls(release=release, vms=4)
    c.sleep(17)
    host, vm = c.host("host1"), c.vm("vm01")
    for table, row, found in (("host", host, whole(c, "/host_rrds")), ("VM", vm, whole(c, "/vm_rrd", uuid=vm["uuid"]))):
        assert list(found.sources) == enabled(c, table, row.ref)
        extremes = [("MIN", 12), ("MIN", 720), ("MIN", 17280)] if table == "host" else []
        assert {("AVERAGE", 1), ("AVERAGE", 17280), *extremes} <= set(found.rows)
        assert len(found.rows) == (10 if table == "host" else 4)
        assert {key: len(rows) for key, rows in found.rows.items()} == {key: ROWS[key[1]] for key in found.rows}
        time, newest = found.rows["AVERAGE", 1][-1]
        assert time == found.last == int(c.pool.clock.now()) // 5 * 5
        for name, value in newest.items():
            assert value == pytest.approx(c(f"{table}.query_data_source", row.ref, name), rel=1e-3)


def test_extremes_are_kept_of_vms_where_the_pool_wants_them(calls: Make) -> None:
    """Beside averages, for whatever is more than one measurement."""
    c = calls(release="8.2", vms=1)
    c("pool.add_to_other_config", c("pool.get_all")[0], "create_min_max_in_new_VM_RRDs", "true")
    found = whole(c, "/vm_rrd", uuid=c.vm("vm01")["uuid"])
    assert len(found.rows) == 10
    assert ("MAX", 1) not in found.rows


def test_an_archive_and_its_updates_tell_the_same(calls: Make) -> None:
    """In each archive, at each time, of every source and function."""
    c = calls(release="8.4", vms=2)
    c.sleep(90000)
    host, now = c.host("host1"), int(c.pool.clock.now())
    found = whole(c, "/host_rrd")
    for steps, ago in ((1, 500), (12, 7000), (720, 500000), (17280, 10**7)):
        excerpt = told(c, start=str(now - ago), host="true", vm_uuid="none")
        assert excerpt["meta"]["step"] == 5 * steps
        for at, entry in enumerate(excerpt["meta"]["legend"]):
            function, kind, uuid, name = entry.split(":")
            assert (kind, uuid) == ("host", host["uuid"])
            points = found.points(name, steps, function)
            for row in excerpt["data"]:
                assert row["values"][at] == near(points[row["t"]])


def test_what_a_source_is_goes_before_its_rows(calls: Make) -> None:
    """A processor's time is a count, memory is not; what has no limit says so."""
    c = calls(release="8.2", vms=1)
    sources = whole(c, "/host_rrd").sources
    total = f"{c.pool.machine('host1').memory // 1024}"
    assert list(sources["cpu0"]) == "name type minimal_heartbeat min max last_ds value unknown_sec".split()
    assert [
        sources["cpu0"][key] for key in ("type", "minimal_heartbeat", "min", "max")
    ] == "DERIVE 300.0000 0.0 1.0000".split()
    assert (sources["memory_total_kib"]["type"], sources["memory_total_kib"]["last_ds"]) == ("GAUGE", total)
    assert sources["pif_eth0_rx"]["max"] == "Infinity"
    before = float(sources["cpu0"]["last_ds"])
    c.sleep(5)
    busy = c("host.query_data_source", c.host("host1").ref, "cpu0")
    assert float(whole(c, "/host_rrd").sources["cpu0"]["last_ds"]) - before == pytest.approx(5 * busy, abs=1e-3)


def test_the_row_to_come_is_begun(calls: Make) -> None:
    """Of an average there is the part that its measurements make, of an extreme what it is so far."""
    c = calls(release="8.4", vms=1, start=1228089600.0)
    c.sleep(15)
    _, text = ask(c, "GET", "/host_rrd", json="true")
    total = c("host.query_data_source", c.host("host1").ref, "memory_total_kib")
    found = json.loads(text)
    at = [source["name"] for source in found["ds"]].index("memory_total_kib")
    begun = {(one["cf"], one["pdp_per_row"]): one["cdp_prep"]["ds"][at] for one in found["rra"]}
    assert begun["AVERAGE", "12"]["value"] == f"{total * 3 / 12:.5g}"
    assert begun["MAX", "12"]["value"] == begun["MIN", "720"]["value"] == f"{total:.5g}"
    assert begun["AVERAGE", "1"]["value"] == "0.0"
    assert {one["unknown_datapoints"] for one in begun.values()} == {"0"}


# --- how they are spelled


def test_json_is_what_each_release_calls_so(calls: Make) -> None:
    """Names had no quotes up to 8.0; 8.1 and 8.2 misspell one; since XenServer 8 numbers have five digits."""
    texts = {}
    for release in ("8.0", "8.2", "8.4"):
        c = calls(release=release, vms=1, hosts=1)
        out, texts[release] = ask(c, "GET", "/host_rrd", json="true")
        assert (out.version, out.close, out.headers["access-control-allow-origin"]) == ("1.0", True, "*")
        assert out.headers.get("content-type") == ("application/json" if release == "8.4" else None)
        expected = whole(c, "/host_rrd")
        text = re.sub(rb"([{,])(\w+):", rb'\1"\2":', texts[release]) if release == "8.0" else texts[release]
        found = read_json(text)
        assert list(found.sources) == list(expected.sources)
        for key, rows in expected.rows.items():
            assert [list(values.values()) for _, values in found.rows[key]] == [
                pytest.approx(list(values.values()), nan_ok=True) for _, values in rows
            ]
    assert texts["8.0"].startswith(b'{version:"0003",step:5,lastupdate:1228089600.0000,ds:[{name:"cpu')
    assert b"last_ds:0.0,value:0.0,unknown_sec:0}" in texts["8.0"]
    assert b'"lastupdate":"1228089600.0000"' in texts["8.2"]
    assert b'"minimal_hearbeat":"300.0000"' in texts["8.2"]
    assert b'"primary_value":"0.00","secondary_value":"0.00","value":"0.0","unknown_datapoints":"0.00"' in texts["8.2"]
    assert b'"lastupdate":"1.2281e+09"' in texts["8.4"]
    assert b'"minimal_heartbeat":"300"' in texts["8.4"]
    assert b'"primary_value":"0.0","secondary_value":"0.0","value":"0.0","unknown_datapoints":"0"' in texts["8.4"]


def test_a_vm_is_told_of_in_xml_alone_up_to_8_2(calls: Make) -> None:
    """Whatever the client asks for, and nothing says what it is; since XenServer 8 as it likes."""
    for release, kind in (("8.2", None), ("8.4", "application/json")):
        c = calls(release=release, vms=1)
        out, text = ask(c, "GET", "/vm_rrds", uuid=c.vm("vm01")["uuid"], json="true")
        assert out.headers.get("content-type") == kind
        names = (read_json if kind else read_xml)(text).sources
        assert list(names) == enabled(c, "VM", c.vm("vm01").ref)
    out, text = ask(c, "GET", "/vm_rrd", uuid=c.vm("vm01")["uuid"], json="1", headers={"accept": "text/xml"})
    assert (out.headers["content-type"], text[:5]) == ("text/xml", b"<?xml")


# --- who answers


def followed(c: Any, out: Any) -> tuple[Any, bytes]:
    """The answer where a redirection sends the client."""
    assert out.status == 302
    place = urlsplit(out.headers["location"])
    return ask(c, "GET", place.path, on=place.netloc, **dict(parse_qsl(place.query, keep_blank_values=True)))


def test_a_vm_is_told_of_by_its_host(calls: Make) -> None:
    """The other ones send the client there, with all that it asked."""
    c = calls(release="8.4", vms=4)
    vm = c.vm("vm02")
    assert vm["resident_on"] == c.host("host2").ref
    task = new_task(c)
    out, _ = ask(c, "GET", "/vm_rrd", uuid=vm["uuid"], json="1", task_id=task)
    assert outcome(c, task)[0] == "success"
    out, text = followed(c, out)
    assert (out.status, list(read_json(text).sources)) == (200, enabled(c, "VM", vm.ref))
    c("VM.pool_migrate", vm.ref, c.host("host1").ref, {})
    out, text = followed(c, ask(c, "GET", "/vm_rrd", uuid=vm["uuid"], on="host2", json="1")[0])
    assert (out.status, list(read_json(text).sources)) == (200, enabled(c, "VM", vm.ref))


@pytest.mark.parametrize(
    ("release", "status", "words"), [("8.2", 500, b"No such file"), ("8.4", 500, b"HANDLE_INVALID")]
)
def test_a_vm_that_does_not_run_has_no_archive(calls: Make, release: str, status: int, words: bytes) -> None:
    """Up to 8.2 the client is sent to the master, who looks for a file; since XenServer 8 that was broken."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm04")
    out, text = ask(c, "GET", "/vm_rrd", uuid=vm["uuid"], on="host2")
    if release == "8.2":
        assert out.headers["location"].startswith(f"http://{c.pool.master.address}/vm_rrd?rrd_unarchive=&")
        out, text = followed(c, out)
    assert (out.status, words in text) == (status, True)
    out, text = ask(c, "GET", "/vm_rrd", uuid=vm["uuid"], rrd_unarchive="")
    assert out.status == (500 if release == "8.2" else 404)


def test_what_names_nothing_is_refused(calls: Make) -> None:
    """A task that the request names fails where the host looked for what it names."""
    c = calls(release="8.4", vms=1)
    task = new_task(c)
    out, text = ask(c, "GET", "/vm_rrd", uuid="x", task_id=task)
    assert (out.status, b"UUID_INVALID: [ VM; x ]" in text) == (500, True)
    assert outcome(c, task) == ("failure", ["UUID_INVALID", "VM", "x"])
    out, text = ask(c, "GET", "/vm_rrd")
    assert (out.status, b"Not_found" in text) == (500, True)
    assert ask(c, "GET", "/sr_rrd")[0].status == 400
    assert ask(c, "GET", "/host_rrd", dbsync="true")[0].status == 400
    assert ask(c, "GET", "/host_rrd", dbsync="true", uuid=c.host("host1")["uuid"])[0].status == 404
    out, text = ask(c, "GET", "/rrd_updates", start="soon")
    assert (out.status, b"Int64.of_string" in text) == (500, True)


def test_nothing_is_kept_of_storage(calls: Make) -> None:
    """Hosts say so since 7.0, as no plugin here measures any; before, they do not know the path."""
    c = calls(release="7.0")
    sr = c.row("SR", "NFS virtual disk storage")["uuid"]
    out, text = ask(c, "GET", "/sr_rrd", uuid=sr)
    assert (out.status, b"No SR RRD available!" in text) == (500, True)
    assert ask(calls(release="6.5"), "GET", "/sr_rrd", uuid=sr)[0].status == 403
    assert ask(calls(release="4.1.0"), "GET", "/host_rrd")[0].status == 403


def test_asking_leaves_no_trace(calls: Make) -> None:
    """No task is made that the client did not name, and the one that it named succeeds."""
    c = calls(release="8.4", vms=4)
    guests = set(c.pool.guests)
    token = c("event.from", ["*"], "", 0.0)["token"]
    for path in ("/host_rrd", "/vm_rrd", "/rrd_updates"):
        assert ask(c, "GET", path, uuid=c.vm("vm01")["uuid"], start="0")[0].status == 200
    assert c("event.from", ["*"], token, 0.0)["events"] == []
    assert set(c.pool.guests) == guests
    for path in ("/host_rrd", "/rrd_updates"):
        task = new_task(c)
        ask(c, "GET", path, start="0", task_id=task)
        assert outcome(c, task)[0] == "success"


def test_anybody_who_may_read_may_ask(calls: Make) -> None:
    """The role that may do least will do."""
    c = calls(release="8.4", vms=2)
    c.pool.directory.connect(c.pool)
    sid = c.pool.directory.add("rita", password="pw")
    subject = c("subject.create", {"subject_identifier": sid, "other_config": {}})
    c("subject.add_to_roles", subject, c("role.get_by_name_label", "read-only")[0])
    rita = c.pool.dispatch("session.login_with_password", ["rita", "pw"])
    for path in ("/host_rrd", "/vm_rrd"):
        assert ask(c, "GET", path, session_id=rita, uuid=c.vm("vm01")["uuid"])[0].status == 200


def test_programs_ask_over_sockets(calls: Make) -> None:
    """By name and password where they have no session, with any HTTP client; ours follows to the VM's host."""
    c = calls(release="8.4", vms=2)
    vm, secret = c.vm("vm02"), f"{c.pool.username}:{c.pool.password}".encode()
    with PoolServer(c.pool) as server:
        basic = {"authorization": f"Basic {base64.b64encode(secret).decode()}"}
        answer = requests.get(f"{server.url}/host_rrd?json=true", headers=basic, timeout=10)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert list(read_json(answer.content).sources) == enabled(c, "host", c.host("host1").ref)
        with connect(server.url, c.pool.username, c.pool.password) as session:
            found = read_xml(session.fetch(f"/vm_rrd?uuid={vm['uuid']}").read())
    assert list(found.sources) == enabled(c, "VM", vm.ref)
