"""What a plan says of the ways back that end with it, and who is asked what hosts have on their disks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, session_on
from reverted import Case

import xenctl
from mockserver import MockPool, PoolServer
from xenctl.errors import ProcedureError
from xenctl.procedures import reinstall, rolling_upgrade, ways_back
from xenctl.procedures.before import Before, of_journal
from xenctl.procedures.hands import OnDisk, hands_for, on_disk
from xenctl.procedures.hands_operator import Operator
from xenctl.procedures.observe import CAME_FROM, observe
from xenctl.session import Session

HOPS = [("4.0.1", "4.1", "5.0"), ("5.0", "5.5", "5.6"), ("6.2", "6.5", "7.0"), ("7.1", "8.0", "8.1")]
OVERWRITTEN = "hold {} from an earlier upgrade"


def reach(pool: MockPool) -> Session:
    return session_on(pool, Fate())


def ends(plan: Any) -> list[str]:
    """The sentences of a plan about ways back that end."""
    assert plan.problems == ()
    return [text for text in plan.no_return if "from an earlier upgrade" in text]


@pytest.mark.parametrize(("first", "second", "third"), HOPS)
def test_the_plan_of_a_second_hop_says_which_way_back_it_ends(
    tmp_path: Path, first: str, second: str, third: str
) -> None:
    """By the note that the first run left, or by what hands see, also where there is no note; the first hop says nothing."""
    c = Case(tmp_path, first, second)
    held = c.pool.machine("host1").system.release.product_version
    assert ends(rolling_upgrade.plan(c.session, second, hands=c.pool.hands)) == []
    c.upgrade(3)
    now = observe(c.session)
    assert now.upgraded == (held, now.hosts[now.master].version)
    (noted,) = ends(rolling_upgrade.plan(c.session, third))
    assert noted == (
        f"the backup partitions of host1, host2 and host3 hold {held} from an earlier upgrade, as the upgrade to "
        f"{now.upgraded[1]} left them; each is overwritten, and the way back to {held} ends there"
    )
    c.session.pool.remove_from_other_config(c.pool.store.pool().ref, CAME_FROM)
    assert ends(rolling_upgrade.plan(c.session, third)) == []
    (seen,) = ends(rolling_upgrade.plan(c.session, third, hands=c.pool.hands))
    assert seen == (
        f"the backup partitions of host1, host2 and host3 hold {held} from an earlier upgrade; each is overwritten, and the "
        f"way back to {held} ends there"
    )


def test_a_revert_takes_the_note_back(tmp_path: Path) -> None:
    """What the old database says of upgrades is older than the backup partitions."""
    c = Case(tmp_path, "5.0", "5.5")
    c.upgrade(3)
    c.to = "5.6"
    journal = c.upgrade(3)
    assert c.carry_out(c.plan(journal), of_journal(journal)).problems == []
    assert {machine.system.release.product_version for machine in c.pool.machines} == {"5.5.0"}
    assert CAME_FROM not in c.pool.store.pool()["other_config"]


def test_a_reinstallation_ends_the_way_back_of_its_host(tmp_path: Path) -> None:
    """It overwrites the partition too, and says so; one that holds the same release loses nothing."""
    c = Case(tmp_path, "6.2", "6.5")
    c.upgrade(3)
    (said,) = ends(reinstall.plan(c.session, "host2", hands=c.pool.hands))
    assert said.startswith("the backup partitions of host2 hold 6.2.0 from an earlier upgrade")
    assert c.pool.machine("host1").backup is not None
    c.pool.machine("host2").backup = None
    assert ends(reinstall.plan(c.session, "host2", hands=c.pool.hands)) == []


def test_what_is_on_a_disk_is_told_over_the_control_path(tmp_path: Path) -> None:
    """What is installed, what the partition keeps, whose database that is; nothing on a new host's."""
    c = Case(tmp_path, "6.2", "6.5", hosts=2)
    c.upgrade(1)
    ours = c.pool.store.pool()["uuid"]
    with (
        PoolServer(c.pool, control="s3cr3t") as server,
        xenctl.connect(server.url, c.pool.username, c.pool.password) as session,
    ):
        hands = hands_for("fake:s3cr3t", session)
        assert on_disk(hands, "host1") == OnDisk("6.2.0", "6.5.0", ours)
        assert on_disk(hands, "host2") == OnDisk("", "6.2.0", "")
    with (
        PoolServer(c.pool) as server,
        xenctl.connect(server.url, c.pool.username, c.pool.password) as session,
        pytest.raises(ProcedureError, match="has no machine room: fake:TOKEN is for a mockserver that was started"),
    ):
        on_disk(hands_for("fake:s3cr3t", session), "host1")
    assert on_disk(object(), "host1") is None


class Asked(Operator):
    """An operator at a terminal who types what is prepared."""

    def __init__(self, session: Session, *typed: str) -> None:
        super().__init__(session, source=io.StringIO(), out=io.StringIO())
        self.watches, self.typed, self.questions = True, list(typed), list[str]()

    def _ask(self, question: str, host: str, *, withdrawn: bool = True) -> str | None:
        assert not withdrawn, "the host is up, so that must not end the question"
        self.questions.append(question)
        return self.typed.pop(0)


def test_a_person_is_asked_what_a_backup_partition_holds() -> None:
    """With what shows it; whatever is no answer is asked again. Nobody there, or nobody who has looked, is no answer."""
    pool = MockPool.create(hosts=2, vms=0, release="6.5")
    before = Before(source="6.2.0", medium="XenServer 6.5.0")
    hosts = [("a", "host1"), ("b", "host2")]
    hands = Asked(reach(pool), "what", "6.2", "none")
    (problem,), warnings = ways_back.against(hosts, before, hands)
    assert "that of host2 holds nothing that can be restored, not 6.2.0; what is left is the dump" in problem
    assert warnings == []
    assert hands.typed == []
    assert "grep PRODUCT_VERSION" in hands.questions[0]
    problems, (warning,) = ways_back.against(hosts, before, Asked(reach(pool), "unseen", "6.2.0"))
    assert problems == []
    assert warning.startswith("nobody has looked at the backup partitions of host1, which have to hold 6.2.0")
    nobody = Operator(reach(pool), source=io.StringIO(), out=io.StringIO())
    assert on_disk(nobody, "a") is None
    assert nobody._out.getvalue() == ""  # type: ignore[attr-defined]


def test_a_person_is_not_asked_where_it_stops_nothing(tmp_path: Path) -> None:
    """The plan of an upgrade, which the note tells enough."""
    c = Case(tmp_path, "6.2", "6.5")
    c.upgrade(3)
    hands = Asked(c.session)
    assert ends(rolling_upgrade.plan(c.session, "7.0", hands=hands)) != []
    assert hands.questions == []
