"""`xenctl recover` as its user meets it: against a pool in another process whose hosts lose their power."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import TOKEN

DATA = Path(__file__).parents[1] / "data"


@dataclass
class Served:
    """A pool in a process of its own, and its machine room, which answers whichever hosts are off."""

    url: str
    room: str
    folder: Path

    def at(self, host: int) -> str:
        """The URL of a host."""
        return self.url.replace("127.0.0.1", f"127.0.0.{host}")

    def power(self, host: str, state: str) -> None:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.room}/_mockserver/hosts/{host}",
            json.dumps({"power": state}).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=20).close()  # noqa: S310

    @property
    def hands(self) -> tuple[str, str]:
        return "--hands", f"fake:{TOKEN}@{self.room}"


def recover(*words: str) -> processes.Said:
    return processes.xenctl("recover", *words, columns=120)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with processes.served("6.2", 3, 6) as ready:
        yield Served(ready["url"], ready["control"], tmp_path)


def status(url: str) -> dict[str, Any]:
    done = recover("status", "--server", url, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return found


def test_a_host_is_lost_its_guests_start_elsewhere_and_it_comes_back(served: Served) -> None:
    """Seen, planned, done, and done again from nothing."""
    assert status(served.at(2))["ok"]
    served.power("host2", "off")
    found = status(served.url)
    assert [host["state"] for host in found["hosts"]] == ["master", "silent", "member"]
    planned = recover("vms", "--server", served.url, "--host", "host2", "--dry-run")
    assert "start the guests of host2 on other hosts  (vm02 on host1, vm05 on host3)" in planned.stdout
    journal = str(served.folder / "vms")
    done = recover("vms", "--server", served.url, "--host", "host2", *served.hands, "--journal", journal, "--json")
    assert done.returncode == 0, done.stderr
    again = recover("vms", "--server", served.url, "--host", "host2", *served.hands, "--journal", journal)
    assert again.returncode == 2
    assert "this run is done" in again.stderr
    journal = str(served.folder / "member")
    done = recover("member", "--server", served.url, "--host", "host2", *served.hands, "--journal", journal, "--json")
    assert done.returncode == 0, done.stderr
    assert any("is known to the pool by a new uuid" in told for told in json.loads(done.stdout)["report"])
    assert status(served.url)["ok"]


def test_a_run_that_is_killed_is_gone_on_with(served: Served) -> None:
    """The master is lost, and so is the process that replaces it, half way."""
    served.power("host1", "off")
    deadline = time.monotonic() + 60
    while [host["state"] for host in status(served.at(2))["hosts"]] != ["emergency"]:
        assert time.monotonic() < deadline
    journal = str(served.folder / "master")
    words = ["master", "--server", served.at(3), "--new", "127.0.0.2", "--lost", "127.0.0.1", "--hosts", "127.0.0.3"]
    words += [*served.hands, "--journal", journal, "--start-vms"]
    process = processes.begun("recover", *words)
    assert process.stderr is not None
    for line in process.stderr:
        if "promote" in line or "make 127.0.0.2 the master" in line:
            process.kill()
            break
    process.communicate(timeout=20)
    done = recover(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {host["address"]: (host["state"], host["master"]) for host in status(served.at(2))["hosts"]}
    assert (found["127.0.0.2"], found["127.0.0.3"]) == (("master", ""), ("member", "127.0.0.2"))
    served.power("host1", "on")
    while not status(served.at(2))["ok"]:
        assert time.monotonic() < deadline + 60


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("status",), 2, "give --server URL, or --rehearse DUMP"),
        (("status", "--server", "http://127.0.0.1:1"), 2, "it does not answer"),
        (("members", "--server", "http://127.0.0.1:1"), 2, "give --journal FILE"),
        (("vms", "--server", "URL", "--journal", "J", "--host", "nobody"), 2, "no host is called 'nobody'"),
        (("vms", "--server", "URL", "--journal", "J", "--host", "host1"), 1, "it is not lost"),
        (("master", "--server", "URL", "--journal", "J", "--new", "127.0.0.2"), 2, "which host was the master?"),
        (
            ("master", "--server", "URL", "--journal", "J", "--new", "127.0.0.2", "--lost", "127.0.0.1"),
            1,
            "127.0.0.1 answers: a pool whose master can be reached needs no other one",
        ),
        (("master", "--server", "URL", "--journal", "J", "--new", "x", "--backup", "none.xml"), 2, "none.xml"),
    ],
)
def test_bad_input_is_one_sentence(served: Served, words: tuple[str, ...], code: int, said: str) -> None:
    """What is wrong, and nothing changed."""
    place = {"URL": served.url, "J": str(served.folder / "journal")}
    done = recover(*(place.get(word, word) for word in words))
    assert done.returncode == code, done.stderr
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (served.folder / "journal").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("members",),
        ("vms", "--host", "xen02"),
        ("member", "--host", "xen02", "--accept-loss"),
        ("master", "--new", "NEW", "--lost", "LOST", "--start-vms"),
    ],
)
def test_each_can_be_rehearsed(words: tuple[str, ...]) -> None:
    """On a fake pool, whose host loses its power first."""
    dump = DATA / "pool-4.1.0.xml"
    addresses = {"NEW": "10.77.0.11", "LOST": "10.77.0.10"}
    done = recover(*(addresses.get(word, word) for word in words), "--rehearse", str(dump), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"]
