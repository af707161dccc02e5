"""``sightline discover``: what else a network trained on labels knows; one file per verb.

Each file ``verb.py`` here with a function ``verb`` is a command of the group, as in the folder above.
"""

from __future__ import annotations

import importlib

import typer

from sightline.cli._once import Once
from sightline.cli._verbs import verbs_in

ORDER = (
    "features",
    "finegrained",
    "objects",
    "concept",
    "text",
    "vqa",
    "units",
    "channels",
    "factors",
    "caption",
    "make",
)

HELP = """Beyond localisation: generic features, fine-grained classes, scenes, concepts, text, answers, units, captions.

```console
sightline discover features photos/ --model resnet50
sightline discover make concept --data tiny-imagenet-40.zip --out made/concept
```
"""


def verbs() -> list[str]:
    """The group's verbs, in the order of ``--help``.

    >>> all(name.isidentifier() for name in verbs())
    True
    """
    return verbs_in(__path__, ORDER)


def build_app() -> typer.Typer:
    """The group with every verb."""
    group = typer.Typer(
        rich_markup_mode="markdown",
        no_args_is_help=True,
        help=HELP,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for verb in verbs():
        module = importlib.import_module(f"{__name__}.{verb}")
        group.command(verb.replace("_", "-"), cls=Once)(getattr(module, verb))
    return group


app = build_app()
