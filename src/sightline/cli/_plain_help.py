"""The list of verbs as plain text: importing rich and its markdown would take longer than everything else in it."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperGroup


class PlainHelp(TyperGroup):
    """The verbs; their own helps keep rich's panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, text, options, verbs."""
        self.rich_markup_mode = None
        self.help = plain(self.help or "")
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every verb with its whole first sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            rows = [(name, one.get_short_help_str(300)) for name, one in commands if one is not None]
            formatter.write_dl([(name, text.replace("`", "")) for name, text in rows])


def plain(text: str) -> str:
    r"""Markdown's blocks of code as paragraphs that are not wrapped (a line of \b begins one), indented.

    >>> plain("So:\n\n```console\nsightline demo\n```").splitlines()
    ['So:', '', '\x08', '  sightline demo']
    """

    def unwrapped(block: re.Match[str]) -> str:
        return "\b\n" + re.sub("^", "  ", block[1].rstrip(), flags=re.MULTILINE)

    return re.sub(r"```console\n(.*?)```", unwrapped, text, flags=re.DOTALL)
