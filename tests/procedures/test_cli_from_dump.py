"""`xenctl upgrade revert --from-dump` as its user meets it: rehearsed, over sockets, killed, resumed, refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import TOKEN, begun, served, xenctl

from xenctl.session import connect

DATA = Path(__file__).parents[1] / "data" / "pool-4.0.1.xml"


@dataclass
class Upgraded:
    """A pool in a process of its own that was upgraded, with the journal of that."""

    url: str
    control: str
    journal: Path

    def live(self, *words: str) -> tuple[str, ...]:
        """A command for this pool. When every host is off, only the control port answers for the machine room."""
        hands = f"fake:{TOKEN}@{self.control}"
        return ("upgrade", *words, "--server", self.url, "--hands", hands, "--journal", str(self.journal))


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Upgraded]:
    with served("4.0.1", 2, 4) as ready:
        pool = Upgraded(ready["url"], ready["control"], tmp_path / "run")
        done = xenctl(*pool.live("run"))
        assert done.returncode == 0, done.stderr
        yield pool


def test_it_is_killed_and_gone_on_with_over_sockets(upgraded: Upgraded) -> None:
    """The dump is that of the upgrade's journal. Nothing begins before all is agreed to; the same command goes on."""
    back = upgraded.live("revert", "--from-dump")
    done = xenctl(*back, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "pool: revert by the dump from 4.1.0 to 4.0.1" in done.stdout
    assert "install XenServer 4.0.1 afresh on host2" in done.stdout
    assert "point of no return: once host1 is installed afresh" in done.stdout
    done = xenctl(*back)
    assert done.returncode == 1
    assert "this shuts guests down; say that you accept the downtime" in done.stderr
    process = begun(*back, "--accept-downtime")
    assert process.stderr is not None
    for line in process.stderr:
        if "install XenServer 4.0.1 afresh on host2" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    done = xenctl(*back, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["procedure"]) == (True, "revert by the dump")
    assert found["journal"] == f"{upgraded.journal}.from-dump"
    with connect(upgraded.url, "root", "secret") as session:
        hosts = session.host.get_all_records().values()
        assert {host.software_version["product_version"] for host in hosts} == {"4.0.1"}
        assert {host.name_label for host in hosts} == {"host1", "host2"}
    done = xenctl(*upgraded.live("resume"))
    assert done.returncode == 2
    assert "this run is abandoned; there is nothing left to do" in done.stderr
    done = xenctl(*back)
    assert done.returncode == 2
    assert "this run is done; there is nothing left to do" in done.stderr


def test_a_revert_that_finds_no_way_back_says_so_before_and_leads_here(upgraded: Upgraded) -> None:
    """Its own hosts' partitions were overwritten by a second installation; nothing was changed by having asked."""
    for host in ("host1", "host2"):
        done = xenctl(
            *("reinstall", "--host", host, "--server", upgraded.url, "--journal", f"{upgraded.journal}-{host}"),
            *("--hands", f"fake:{TOKEN}@{upgraded.control}", "--policy", "hard"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"point of no return: the backup partitions of {host} hold 4.0.1" in " ".join(done.stdout.split())
    done = xenctl(*upgraded.live("revert", "--accept-downtime"))
    assert done.returncode == 1
    assert "that of host1 holds 4.1.0, not 4.0.1; that of host2 holds 4.1.0, not 4.0.1; what is left is the dump" in (
        " ".join(done.stderr.split())
    )
    assert "xenctl upgrade revert --from-dump" in done.stderr
    assert not Path(f"{upgraded.journal}.revert").exists()
    done = xenctl(*upgraded.live("revert", "--from-dump", "--accept-downtime", "--policy", "hard"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("after", ["0", "2"])
def test_it_can_be_rehearsed(after: str) -> None:
    """An upgrade of so many hosts is run on a fake pool, and taken back by the dump that it was loaded from."""
    done = xenctl(
        *("upgrade", "revert", "--from-dump", "--rehearse", str(DATA), "--after", after, "--json", "--accept-downtime")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["state"], found["violations"]) == (True, "done", [])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "give --journal RUN, or --revert-journal FILE"),
        (
            ("--dry-run", "--server", "http://127.0.0.1:1"),
            2,
            "give --dump FILE: which dump is from before the upgrade?",
        ),
        (("--dry-run", "--server", "http://127.0.0.1:1", "--dump", "nowhere"), 2, "nowhere"),
        (("--dry-run", "--server", "http://127.0.0.1:1", "--dump", __file__), 2, "not XML"),
        (("--to", "4.0.1", "--dry-run"), 2, "--to, --unmoved and --replan are for backup partitions"),
        (("--after", "1", "--dry-run"), 2, "--after is for a rehearsal"),
        (("--rehearse", str(DATA)), 1, "say that you accept the downtime"),
        (("--journal", "nowhere", "--server", "http://127.0.0.1:1"), 2, "there is no journal"),
        (("--revert-journal", __file__, "--server", "http://127.0.0.1:1"), 2, "file is not a database"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], status: int, said: str) -> None:
    """What is wrong, and nothing changed."""
    done = xenctl("upgrade", "revert", "--from-dump", *words)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
