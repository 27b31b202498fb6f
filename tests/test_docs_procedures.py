"""The pages of procedures: an administrator finds there every command, every option, and every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import COMMANDS

PAGES = Path(__file__).parents[1] / "docs" / "procedures"
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES.glob("*.md")}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_shown_with_what_it_takes(name: str) -> None:
    """As it is typed, on a page that is not the list of pages; each option on some page."""
    assert any(f"xenctl {name}" in text for page, text in TEXTS.items() if page != "README.md")
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}
    everything = "\n".join(TEXTS.values())
    assert {option for option in options if not re.search(rf"{option}(?![\w-])", everything)} == set()


def test_the_list_names_every_page_and_every_command() -> None:
    """A page that nobody is led to is not read."""
    listed = TEXTS["README.md"]
    assert set(TEXTS) - {"README.md"} == set(re.findall(r"\]\(([\w-]+\.md)\)", listed))
    table = "\n".join(line for line in listed.splitlines() if line.startswith("|"))

    def told(name: str) -> bool:
        *group, word = name.split()
        return f"`{word}`" in table or f"`xenctl {name}`" in table or (bool(group) and word in COMMANDS and told(word))

    assert [name for name in COMMANDS if not told(name)] == []
