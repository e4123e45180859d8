"""Declares the options that most commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Output as JSON.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="HERD_URL",
        metavar="URL",
        show_envvar=False,
        help="URL of the coordinator (or HERD_URL); without it, the one in this machine's settings.",
    ),
]
