"""A command that refuses an option given twice, where Typer would silently take the last one."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from sightline.errors import InputError

# Where and how fast a verb works: the last one counts, so that a script can append its own.
LAST_COUNTS = {"out", "device", "workers", "batch_size", "shard_size", "limit", "resamples"}


class Once(TyperCommand):
    """A verb whose options, unless repeatable, are given once, under one of their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raises `InputError` for an option that is given twice."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = Counter(id(one) for one in order)
        for one in order:
            repeatable = getattr(one, "multiple", False) or getattr(one, "is_flag", False) or one.nargs == -1
            repeatable |= one.name in LAST_COUNTS
            if given[id(one)] > 1 and not repeatable and one.param_type_name == "option":
                names = " or ".join(name for name in one.opts if name.startswith("--"))
                raise InputError(f"{names} is given {given[id(one)]} times; {ctx.command_path} takes it once")
        return super().parse_args(ctx, args)
