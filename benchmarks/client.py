"""The client against the official SDK (PyPI `xenapi`), in one process and one run: decoding, encoding, calls, import."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from xmlrpc import client as stdlib

from xenctl import connect, datamodel, jsonrpc, xmlrpc
from xenctl.datamodel import types as t
from xenctl.values import Timestamp, to_map, to_record, to_string

from .figures import Figure, ratio

VMS = 5000
RECOMMENDATIONS = (
    "<restrictions>" + '<restriction field="memory-static-max" max="137438953472"/>' * 6 + "</restrictions>"
)
READ = ("name_label", "power_state", "memory_static_max")


def made_value(rnd: random.Random, kind: t.Type, name: str, enums: Mapping[str, tuple[str, ...]]) -> Any:
    """A plausible value of a field."""
    if isinstance(kind, t.Scalar):
        return _scalar(rnd, kind.name, name)
    if isinstance(kind, t.Ref):
        return f"OpaqueRef:{uuid.UUID(int=rnd.getrandbits(128))}" if rnd.random() < 0.4 else "OpaqueRef:NULL"
    if isinstance(kind, t.Enum):
        return rnd.choice(enums[kind.name])
    if isinstance(kind, t.Set):
        length = rnd.choice((0, 0, 1, 3)) if name != "allowed_operations" else 12
        return [made_value(rnd, kind.item, name, enums) for _ in range(length)]
    if isinstance(kind, t.Map):
        return {f"key{n}": str(made_value(rnd, kind.item, name, enums)) for n in range(rnd.choice((0, 0, 2, 6)))}
    return ""


def _scalar(rnd: random.Random, kind: str, name: str) -> Any:
    if kind == "int":
        return rnd.choice((0, 1, -1, 1 << 30, 4 << 30))
    if kind == "bool":
        return rnd.random() < 0.5
    if kind == "float":
        return 1.0
    if kind == "datetime":
        return Timestamp("20260101T00:00:00Z")
    special = {
        "recommendations": RECOMMENDATIONS,
        "snapshot_metadata": "('a' 'b')" * 600 if rnd.random() < 0.12 else "",
        "uuid": str(uuid.UUID(int=rnd.getrandbits(128))),
        "name_label": rnd.choice(("web", "db", "größer & <co>")) + str(rnd.randrange(10_000)),
    }
    return special.get(name, rnd.choice(("", "text", "some longer text of a field")))


def made_records(count: int) -> dict[str, dict[str, Any]]:
    """Records of VMs as today's servers have them, the same every time."""
    rnd, cls = random.Random(0), datamodel.load().classes["VM"]
    fields = [(name, field.type) for name, field in cls.fields.items() if not field.hidden]
    return {
        f"OpaqueRef:{uuid.UUID(int=rnd.getrandbits(128))}": {
            name: made_value(rnd, kind, name, cls.enums) for name, kind in fields
        }
        for _ in range(count)
    }


def decoding(runs: int) -> Iterator[Figure]:
    """`VM.get_all_records` of many VMs: eager to plain values, and lazily to typed records, three fields read of each."""
    data = xmlrpc.dumps_success(made_records(VMS))
    what = f"VM.get_all_records, {VMS} VMs, {len(data) / 1e6:.0f} MB"
    convert = to_map(to_string, to_record("VM"))

    def typed() -> None:
        for vm in convert(xmlrpc.loads_response(data, lazy=True)).values():
            for name in READ:
                getattr(vm, name)

    def official() -> object:
        return stdlib.loads(data)

    eager = 1 / ratio(lambda: xmlrpc.loads_response(data), official, runs=runs)
    yield Figure(f"{what}: plain values, times faster", eager, 4.5, "x", at_least=True)
    yield Figure("the same, typed, 3 fields read, times faster", 1 / ratio(typed, official, runs=runs), 12.0, "x", True)
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        file.write(data)
        file.flush()
        theirs = peak(file.name, "official")
        yield Figure(
            "the same, plain values: peak memory over the official SDK's", peak(file.name, "eager") / theirs, 1.25, "x"
        )
        yield Figure("the same, typed: peak memory over the official SDK's", peak(file.name, "lazy") / theirs, 1.0, "x")


WAYS = {
    "official": "from xmlrpc import client as c; work = lambda data: c.loads(data)",
    "eager": "from xenctl import xmlrpc as x; work = lambda data: x.loads_response(data)",
    "lazy": "from xenctl import xmlrpc as x; work = lambda data: x.loads_response(data, lazy=True)",
    "lazy json": "from xenctl import jsonrpc as j; work = lambda data: j.loads_response(data, lazy=True)",
}


def peak(path: str, way: str) -> float:
    """KiB by which the peak memory of a fresh process grows while it decodes the file at `path`.

    The kernel's own high-water mark: that of `getrusage` begins with the parent's.
    """
    code = (
        f"import pathlib\n{WAYS[way]}\n"
        "def mark(): return int(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        f"data = pathlib.Path({path!r}).read_bytes()\nbefore = mark()\nkept = work(data)\nprint(mark() - before)\n"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def decoding_json(runs: int) -> Iterator[Figure]:
    """The same records over JSON-RPC, against the official SDK's reading of them in XML-RPC, which is all that it speaks."""
    records = made_records(VMS)
    xml, data = xmlrpc.dumps_success(records), jsonrpc.dumps_success(records, jsonrpc.Call("VM.get_all_records", []))
    del records
    what = f"over JSON-RPC, {len(data) / 1e6:.0f} MB"
    convert = to_map(to_string, to_record("VM"))
    fast, standard = jsonrpc.FastBackend(), jsonrpc.Backend()

    def typed(backend: jsonrpc.Backend) -> None:
        for vm in convert(jsonrpc.loads_response(data, lazy=True, backend=backend)).values():
            for name in READ:
                getattr(vm, name)

    def official() -> object:
        return stdlib.loads(xml)

    value = 1 / ratio(lambda: typed(fast), official, runs=runs)
    yield Figure(f"the same {what}, typed, with `fast`, times faster", value, 15.0, "x", at_least=True)
    value = 1 / ratio(lambda: typed(standard), official, runs=runs)
    yield Figure("the same by the standard library alone, times faster", value, 6.0, "x", at_least=True)
    with tempfile.NamedTemporaryFile(suffix=".xml") as theirs, tempfile.NamedTemporaryFile(suffix=".json") as ours:
        for file, content in ((theirs, xml), (ours, data)):
            file.write(content)
            file.flush()
        value = peak(ours.name, "lazy json") / peak(theirs.name, "official")
        yield Figure("the same, with `fast`: peak memory over the official SDK's", value, 1.0, "x")


def encoding(runs: int) -> Iterator[Figure]:
    """A call of `VM.create` with a full record."""
    (record,) = made_records(1).values()
    record = {
        name: str(v) if isinstance(v, (int, str)) and not isinstance(v, bool) else v for name, v in record.items()
    }
    ours = ratio(
        lambda: xmlrpc.dumps_call("VM.create", ("OpaqueRef:session", record)),
        lambda: stdlib.dumps(("OpaqueRef:session", record), "VM.create"),
        runs=max(runs, 5),
        times=200,
    )
    yield Figure("encoding VM.create with a full record, times faster", 1 / ours, 1.5, "x", at_least=True)


def calls(runs: int) -> Iterator[Figure]:
    """A small call over keep-alive loopback."""
    import XenAPI

    server = subprocess.Popen(
        [sys.executable, "-m", "mockserver", "--release", "8.2"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        theirs = XenAPI.Session(url)
        theirs.xenapi.login_with_password("root", "secret")
        with connect(url, "root", "secret") as ours:
            (vm, *_) = ours.VM.get_all()
            value = ratio(
                lambda: ours.VM.get_power_state(vm),
                lambda: theirs.xenapi.VM.get_power_state(vm),
                runs=max(2 * runs, 10),
                times=200,
            )
        yield Figure("VM.get_power_state over keep-alive loopback over the official SDK", value, 1.25, "x")
    finally:
        server.terminate()
        server.wait()


def importing(runs: int) -> Iterator[Figure]:
    """`import xenctl` in a fresh process, the empty interpreter's time taken off."""

    def took(code: str) -> float:
        timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)

    pairs = [(took("import xenctl"), took("import XenAPI")) for _ in range(max(runs, 5))]
    yield Figure("import xenctl over import XenAPI", statistics.median(a / b for a, b in pairs), 1.0, "x")


def figures(runs: int) -> Iterator[Figure]:
    """Every figure of the client."""
    for part in (decoding, decoding_json, encoding, calls, importing):
        yield from part(runs)
