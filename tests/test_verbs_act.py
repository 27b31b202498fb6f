"""No verb that declares no writes is hollow: it answers something, refuses something that is there, or changes what is no
row: a machine, a guest, a session, the log.

The calls are generated as in `test_verbs_write`, and what the verb itself does in one is watched: a change of state is seen
in the journal of a savepoint. Where types do not lead to one, `trials.PROBED` names the test that does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from inspect import isgenerator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from trials import PROBED
from world import MODEL, Make, World

from mockserver import classes
from xenctl.datamodel import Message
from xenctl.datamodel import types as t
from xenctl.errors import Failure
from xenctl.releases import find, serves

RELEASES = ("8.4", "7.0", "4.0.1")
"""Where a verb is tried, in this order, until a release serves it and it does something."""
TRIES = 200
UNKNOWN = frozenset({"HANDLE_INVALID", "UUID_INVALID"})
"""Refusals of what is not there: also a verb that does nothing else has them."""
VOID = t.Scalar("void")
CHECKS = ("assert_", "precheck")
"""What the names of messages without an answer begin with that need do no more than refuse."""


def silent() -> list[str]:
    """The verbs that declare no writes."""
    classes.load()
    return [name for name, verb in classes.VERBS.items() if not verb.writes]


class Watched:
    """A verb's function, and what it did in the calls so far: `answers` that say something, `refusals` of what is there,
    `changes` of state. `returned` says whether any call came back."""

    def __init__(self, world: World, verb: classes.Verb) -> None:
        self.world, self.function = world, verb.function
        self.answers: list[Any] = []
        self.refusals: list[str] = []
        self.changes = 0
        self.returned = False

    def __call__(self, call: Any, *args: Any) -> Any:
        result = self.step(self.function, call, *args)
        return self.drive(result) if isgenerator(result) else self.note(result)

    def drive(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        while True:
            try:
                wait = self.step(next, steps)
            except StopIteration as stop:
                return self.note(stop.value)
            yield wait

    def note(self, result: Any) -> Any:
        self.returned = True
        if result not in ("", None):
            self.answers.append(result)
        return result

    def step(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a part of the verb, up to where it waits."""
        pool = self.world.pool
        entries = pool.journal.entries
        assert entries is not None
        before, stale = len(entries), pool.upkeep.stale
        try:
            return function(*args)
        except Failure as error:
            if error.code not in UNKNOWN:
                self.refusals.append(error.code)
            raise
        finally:
            self.changes += len(entries) > before or pool.upkeep.stale != stale


def attempt(world: World, message: Message, args: tuple[Any, ...]) -> None:
    """Call a message, what is for toolstacks alone as one of them; what that changed is taken back."""
    store = world.pool.store
    with world.pool.savepoint():
        if message.pool_internal:
            store.write(store.get("session", world.call.session), pool=True)
        with suppress(Failure):
            world.pool.dispatch(message.wire_name, [world.call.session, *args] if message.session else [*args])


def acted(watched: Watched, name: str) -> bool:
    """Whether a verb did what a hollow one would not."""
    class_name, _, message = name.partition(".")
    if MODEL.classes[class_name].messages[message].result != VOID:
        return bool(watched.answers)
    return bool(watched.changes) or (message.startswith(CHECKS) and bool(watched.refusals))


@pytest.mark.parametrize("name", sorted(set(silent()) - set(PROBED)))
def test_a_verb_that_declares_no_writes_does_something_all_the_same(
    calls: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call at least, by itself; or it refuses whatever it is asked."""
    verb, (class_name, _, message_name) = classes.VERBS[name], name.partition(".")
    message, tried = MODEL.classes[class_name].messages[message_name], 0
    refusals: list[str] = []
    returned = False
    for release in RELEASES:
        if not serves(find(release), message):
            continue
        world = World(calls, release)
        world.prepare(name)
        watched = Watched(world, verb)
        monkeypatch.setitem(classes.VERBS, name, replace(verb, function=watched))
        classes.find.cache_clear()
        try:
            for args in islice(world.attempts(message), TRIES):
                tried += 1
                attempt(world, message, args)
                if acted(watched, name):
                    return
        finally:
            monkeypatch.undo()
            classes.find.cache_clear()
        refusals += watched.refusals
        returned = returned or watched.returned
    if returned or not refusals:
        pytest.fail(
            f"{name}: {tried} calls, and none did anything by itself; name the test that sees it in trials.PROBED"
        )


@pytest.mark.parametrize("name", sorted(PROBED))
def test_what_types_do_not_lead_to_has_a_test_of_its_own(name: str) -> None:
    """The test that is named calls the verb."""
    module, _, function = PROBED[name].partition("::")
    text = (Path(__file__).parent / module).read_text()
    _, found, body = text.partition(f"def {function}(")
    assert found, f"there is no {PROBED[name]}"
    assert f'{name}"' in body.partition("\ndef ")[0]
    assert name in silent()


def test_a_hollow_verb_is_found_out(calls: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above is one that can fail: also for a verb that looks whether its object is there."""
    for name, function in {
        "host.request_config_file_sync": lambda call, ref, hash: "",  # noqa: A006 - as the message has it
        "VM.pool_migrate_complete": lambda call, vm, host: "" * len(call.db.get("VM", vm)),
        "VM.get_cooperative": lambda call, vm: "",
    }.items():
        with monkeypatch.context() as patch:
            patch.setitem(classes.VERBS, name, replace(classes.VERBS[name], function=function))
            with pytest.raises(pytest.fail.Exception, match=f"{name}: .* none did anything by itself"):
                test_a_verb_that_declares_no_writes_does_something_all_the_same(calls, name, patch)
    classes.find.cache_clear()
