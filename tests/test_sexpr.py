"""The column text of sets and maps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenctl import sexpr

ALPHABET = st.sampled_from("()'\"\\; \n\t\rab")

REGULAR_SETS = {
    "()": [],
    "('a')": ["a"],
    "('a' 'b c')": ["a", "b c"],
    "('')": [""],
    r"('it\'s' 'C:\\dir')": ["it's", "C:\\dir"],
    "('(' ')' ';')": ["(", ")", ";"],
    "('two\nlines')": ["two\nlines"],
    "('\"')": ['"'],
}
IRREGULAR_SETS = {
    '("a" "b")': ["a", "b"],
    " ( 'a'\t\r\n'b' ) ": ["a", "b"],
    "('a' ; a comment with ' and (\n'b')": ["a", "b"],
    "('a') ; the end": ["a"],
    '("a"\'b\'"c")': ["a", "b", "c"],
    r'("say \"hi\"" "\n")': ['say "hi"', "n"],
    "('a b''c d')": ["a b", "c d"],
}
BROKEN_SETS = {
    "": "character 1: the text ends before its last parenthesis",
    "('a'": "character 5: the text ends before its last parenthesis",
    "a": "character 1: expected a quoted text or a parenthesis",
    "(a)": "character 2: expected a quoted text or a parenthesis",
    "('a''b')": "character 2: expected a quoted text or a parenthesis",
    "('a' 'b)": "character 6: expected a quoted text or a parenthesis",
    "'a'": "character 1: ' does not belong here",
    "('a'))": "character 6: ) does not belong here",
    "('a')('b')": "character 6: ( does not belong here",
    "(('a' 'b'))": "character 2: ( does not belong here",
}
BROKEN_MAPS = {
    "('a' 'b')": "character 2: ' does not belong here",
    "(('a'))": "character 6: ) does not belong here",
    "(('a' 'b' 'c'))": "character 11: ' does not belong here",
    "(('a' ('b')))": "character 7: ( does not belong here",
    "(('a' 'b')": "character 11: the text ends before its last parenthesis",
}


@pytest.mark.parametrize(("text", "items"), [*REGULAR_SETS.items(), *IRREGULAR_SETS.items()])
def test_a_set_is_read_in_every_spelling_that_xapi_reads(text: str, items: list[str]) -> None:
    """Quotes of both kinds, escapes, white space and comments are understood."""
    assert sexpr.parse_set(text) == items


@pytest.mark.parametrize(("text", "items"), REGULAR_SETS.items())
def test_a_set_is_written_as_xapi_writes_it(text: str, items: list[str]) -> None:
    """Writing the items of xapi's own text gives that text."""
    assert sexpr.write_set(items) == text


@pytest.mark.parametrize(("text", "message"), BROKEN_SETS.items())
def test_a_broken_set_is_refused_with_the_place(text: str, message: str) -> None:
    """The error names the character and does not quote the text."""
    with pytest.raises(ValueError) as raised:
        sexpr.parse_set(text)
    assert str(raised.value) == message


@pytest.mark.parametrize(("text", "message"), BROKEN_MAPS.items())
def test_a_broken_map_is_refused_with_the_place(text: str, message: str) -> None:
    """A map is one list of pairs and nothing else."""
    with pytest.raises(ValueError) as raised:
        sexpr.parse_map(text)
    assert str(raised.value) == message


def test_a_map_is_read_and_written() -> None:
    """Keys keep their order, and a set fits into a value as text."""
    mapping = {"mac_seed": "1", "it's": "100% ok", "nested": sexpr.write_set(["a", "b'c"])}
    text = r"(('mac_seed' '1') ('it\'s' '100% ok') ('nested' '(\'a\' \'b\\\'c\')'))"
    assert sexpr.write_map(mapping) == text
    assert list(sexpr.parse_map(text).items()) == list(mapping.items())


def test_the_last_of_two_equal_keys_counts() -> None:
    """Both ways of parsing keep the value that comes last."""
    assert sexpr.parse_map("(('a' '1') ('a' '2'))") == sexpr.parse_map("(('a' \"1\") ('a' '2'))") == {"a": "2"}


def test_a_map_with_an_empty_key_is_not_written() -> None:
    """xapi refuses such a map, so it is not made."""
    with pytest.raises(ValueError, match="empty key"):
        sexpr.write_map({"": "x"})


@given(st.lists(st.text()))
def test_any_set_comes_back(items: list[str]) -> None:
    """Reading what was written gives the items again, fast and plain."""
    text = sexpr.write_set(items)
    assert sexpr.parse_set(text) == items == sexpr._plain_atoms(text, sexpr._SET_TOKENS)


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_any_map_comes_back(mapping: dict[str, str]) -> None:
    """Reading what was written gives the pairs again, fast and plain."""
    text = sexpr.write_map(mapping)
    atoms = [atom for pair in mapping.items() for atom in pair]
    assert list(sexpr.parse_map(text).items()) == list(mapping.items())
    assert sexpr._plain_atoms(text, sexpr._MAP_TOKENS) == atoms


@given(
    st.one_of(st.text(ALPHABET), st.lists(st.sampled_from(["'a'", "'b\\''", "(", ")", " ", "('k' 'v')"])).map("".join))
)
def test_fast_and_plain_parsing_agree(text: str) -> None:
    """What the regular expressions take at once, the plain way takes too and finds the same in it."""
    for regular, tokens in ((sexpr._SET, sexpr._SET_TOKENS), (sexpr._MAP, sexpr._MAP_TOKENS)):
        for candidate in (text, f"({text})", f"(({text}))"):
            if regular.fullmatch(candidate):
                assert sexpr._atoms(candidate) == sexpr._plain_atoms(candidate, tokens)


@given(st.text(ALPHABET))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parsers fail in another way than by `ValueError`, and what they take can be written."""
    try:
        items = sexpr.parse_set(text)
    except ValueError:
        return
    assert sexpr.parse_set(sexpr.write_set(items)) == items
