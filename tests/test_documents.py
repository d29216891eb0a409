"""What README and docs say is so: files they link to, folders they describe, commands they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kilocall.cli.app import app

ROOT = Path(__file__).parents[1]
ROOTS = ("proto", "sender", "receiver", "shared")
DOCUMENTS = (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def commands() -> Iterator[tuple[str, str]]:
    """Document and command line, for every `kilocall ...` in a block of shell lines."""
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("kilocall "):
                    yield document.name, line


def parse(arguments: list[str]) -> None:
    """Finds the verb and checks its options, running nothing. Raises UsageError."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"no verb {name!r}"
        command = command.commands[name]
    command.make_context(command.name, arguments)


def test_the_documents_link_to_files_that_exist() -> None:
    links = {
        document.parent / target
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    }
    assert links
    assert [target for target in links if not target.exists()] == []


@pytest.mark.parametrize(("document", "line"), list(commands()))
def test_the_commands_shown_are_taken(document: str, line: str) -> None:
    parse(shlex.split(line, comments=True)[1:])


def test_a_command_with_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["encode", "clip.mp4", "-o", "clip.kcs", "--qualty", "3"])


def test_the_options_spoken_of_exist() -> None:
    def options(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for inner in getattr(command, "commands", {}).values():
            yield from options(inner)

    known = {*options(get_command(app)), "--help"}
    # Those of the containers.
    known |= set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docker-compose.yml").read_text()))
    spoken = {
        (option, document.name)
        for document in DOCUMENTS
        for option in re.findall(r"`(?:kilocall [^`]*)?(--[a-z][a-z-]+)", document.read_text())
    }
    assert spoken
    assert {(option, name) for option, name in spoken if option not in known} == set()


def test_the_architecture_names_every_folder_and_no_other() -> None:
    named = set(re.findall(r"`((?:proto|sender|receiver|shared)/kilocall/[\w/-]+)/`", ARCHITECTURE))
    there = {
        folder.relative_to(ROOT).as_posix()
        for root in ROOTS
        for folder in (ROOT / root / "kilocall").rglob("*/")
        # Weights are a folder a family; the table speaks of them together. `make web` makes vendor.
        if not {"__pycache__", "vendor"} & set(folder.parts) and folder.parent.name != "weights"
    }
    assert named == there


def test_the_architecture_names_files_that_exist() -> None:
    names = {path.name for root in ROOTS for path in (ROOT / root).rglob("*") if path.is_file()}
    spoken = set(re.findall(r"\b[a-z_]+\.(?:py|js)\b", ARCHITECTURE))
    assert spoken
    assert spoken - names == set()
