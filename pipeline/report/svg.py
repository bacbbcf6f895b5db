"""SVG elements as text: names, attributes and children, all escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

SPACE = "http://www.w3.org/2000/svg"
"""The SVG namespace: an identifier that no browser fetches."""
LETTER_EM = 0.62
"""The average character width of a wide system font, and the character width of a monospaced font, in em."""


def element(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """Return an element; text and attribute values are escaped, `Markup` children are kept.

    In attribute names, `_` stands for `-` and a trailing `_` is dropped (`class_`); attributes with `None` are omitted.
    Numbers are rounded to a tenth of a pixel.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")  # noqa: S704 - every part is escaped above


def picture(width: float, height: float, title: str, *children: Markup, class_: str = "") -> Markup:
    """Return an `<svg>` that scales with its container and is exposed to screen readers as an image with a title."""
    return element(
        "svg",
        *children,
        xmlns=SPACE,
        class_=class_ or None,
        role="img",
        aria_label=title,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=round(width),
        height=round(height),
    )


def text(
    at: tuple[float, float], words: str, class_: str, *, anchor: str = "start", hover: str | None = None
) -> Markup:
    """Return text at a point of its baseline; `anchor` says whether the point is its start, middle or end."""
    children: tuple[str | Markup, ...] = (words,) if hover is None else (element("title", hover), words)
    return element(
        "text", *children, x=at[0], y=at[1], class_=class_, text_anchor=None if anchor == "start" else anchor
    )


def line(start: tuple[float, float], end: tuple[float, float], class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def width_of(words: str, size_px: float) -> float:
    """Return the approximate width of a text, rather too large than too small."""
    return len(words) * size_px * LETTER_EM


def shortened(words: str, most: int) -> str:
    """Return a text of at most `most` characters; a truncated text ends with an ellipsis."""
    return words if len(words) <= most else words[: most - 1] + "…"


def _value(value: str | float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(escape(value))
