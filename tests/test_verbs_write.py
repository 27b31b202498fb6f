"""No verb answers success without its effect: each that declares writes is made to succeed, and must have written some.

The calls are generated: in a pool that has one object of everything, every verb is tried with arguments of the types of its
message until a call does what it says. Where types are not enough to find one, `trials` names good values for a parameter.
"""

from __future__ import annotations

from itertools import islice

import pytest
from trials import ELSEWHERE, NEWER, REFUSED
from world import MODEL, Make, World

from mockserver import classes
from xenctl.errors import Failure
from xenctl.releases import find, serves

RELEASES = ("8.4", "7.0", "4.0.1")
"""Where a verb is tried, in this order, until a release serves it and it does something."""
TRIES = 1500


def declared() -> list[str]:
    """The verbs that declare what they write."""
    classes.load()
    return [name for name, verb in classes.VERBS.items() if verb.writes]


def wrote(world: World, verb: classes.Verb) -> bool:
    """Whether `verb` wrote something that it declares by itself."""
    writes = verb.writes or frozenset()
    return any(
        name == verb.name and ((write.table, write.field or "*") in writes or (write.table, "*") in writes)
        for name, write in world.written
    )


@pytest.mark.parametrize("name", sorted(set(declared()) - NEWER - ELSEWHERE - set(REFUSED)))
def test_a_verb_that_succeeds_has_written_what_it_declares(calls: Make, name: str) -> None:
    """In one call at least; and none writes what it does not declare, which the fake itself watches."""
    verb, (class_name, _, message_name) = classes.VERBS[name], name.partition(".")
    message, tried, answered = MODEL.classes[class_name].messages[message_name], 0, 0
    for release in RELEASES:
        if not serves(find(release), message):
            continue
        world = World(calls, release)
        world.prepare(name)
        for args in islice(world.attempts(message), TRIES):
            tried += 1
            try:
                world(name, *args)
            except Failure:
                continue
            answered += 1
            if wrote(world, verb):
                return
    pytest.fail(f"{name}: {answered} of {tried} calls succeeded, and none wrote what it declares; see trials")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_always_refused_marks_what_it_was_asked_to_do(calls: Make, name: str) -> None:
    """Where nothing else is in the way, the refusal is the one that xapi has; no call ever succeeds."""
    class_name, _, message_name = name.partition(".")
    world, codes = World(calls, RELEASES[0]), set()
    for args in islice(world.attempts(MODEL.classes[class_name].messages[message_name]), TRIES):
        world.written.clear()
        with pytest.raises(Failure) as caught:
            world(name, *args)
        if caught.value.code == REFUSED[name]:
            assert wrote(world, classes.VERBS[name])
        codes.add(caught.value.code)
    assert REFUSED[name] in codes


def test_a_verb_without_effect_is_found_out(calls: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above is one that can fail."""
    classes.load()
    hollow = classes.Verb("blob.destroy", lambda call, ref: "", frozenset({("blob", "*")}))
    monkeypatch.setitem(classes.VERBS, "blob.destroy", hollow)
    classes.find.cache_clear()
    with pytest.raises(pytest.fail.Exception, match=r"blob\.destroy: 4 of 4 calls succeeded, and none wrote"):
        test_a_verb_that_succeeds_has_written_what_it_declares(calls, "blob.destroy")
    monkeypatch.undo()
    classes.find.cache_clear()
