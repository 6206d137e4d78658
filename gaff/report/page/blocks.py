# SPDX-License-Identifier: Apache-2.0
"""What sections are made of, as HTML: headings, places of charts, rows of buttons.  Serves other pages too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MAX_TEXT = 600  # characters of one message


def header(kind: str, title: str, source: str) -> str:
    """What the page is, of what, read from where; the button for its colours."""
    return (
        f'<header><div><p class="brand">{escape(kind)}</p>'
        f'<h1>{escape(title)}</h1><p class="source">{escape(source)}</p></div>'
        '<button type="button" id="theme" title="Colours: automatic, light or dark">Colours: <span>auto</span></button>'
        "</header><noscript><p>The charts need JavaScript; the tables below have the numbers.</p></noscript>"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with its heading; ``parts`` are HTML."""
    inner = "\n".join(part for part in parts if part)
    head = f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{escape(title)}</h2>'
    return f"{head}\n{inner}\n</section>"


def chart(name: str, description: str, height: int, caption: str = "", *, keys: bool = False) -> str:
    """The place of a chart, which a script fills.  ``description`` stands for it where it cannot be seen."""
    key = f'<div class="keys" id="{name}-keys"></div>' if keys else ""
    return (
        f'<figure>{key}<div class="chart" id="{name}" role="group" aria-roledescription="chart" tabindex="0"'
        f' data-height="{height}" style="min-height:{height}px" aria-label="{escape(description)}"></div>'
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


def choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    """A row of buttons of which one is pressed, the first to begin with; ``options`` are value and text."""
    buttons = "".join(
        f'<button type="button" value="{value}" aria-pressed="{"false" if place else "true"}">{escape(text)}</button>'
        for place, (value, text) in enumerate(options)
    )
    return f'<div class="choice" id="{name}" role="group" aria-label="{escape(label)}">{buttons}</div>'


def drawn(points: Mapping[str, Any], what: str) -> str:
    """How many of the points are drawn, ``shown`` ``of`` all; nothing where that is no question."""
    shown, of = points["shown"], points["of"]
    if of < 2:
        return ""
    if shown == of:
        return f"All {of:,} {what} are drawn."
    return f"{shown:,} of {of:,} {what} are drawn, the lowest and the highest of each stretch among them."


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """A message of bounded length."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
