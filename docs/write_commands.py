"""Writes ``docs/commands.md`` from the commands' own help; a test fails when it is stale. Run: make docs"""

from __future__ import annotations

from pathlib import Path

import click

from papertune.cli import papertune

PLACE = Path(__file__).with_name("commands.md")


def text() -> str:
    parts = ["# Commands\n\nMade by `make docs` from the commands' own help.\n"]
    for name, command in papertune.commands.items():
        context = click.Context(command, info_name=f"papertune {name}", max_content_width=110, terminal_width=110)
        parts.append(f"## papertune {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
    print(f"Written: {PLACE}")
