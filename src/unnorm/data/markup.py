"""HTML that a chat page was saved as, told from HTML that is talked about, and turned into Markdown."""

import re

# How ChatGPT's page wraps a turn. HTML that someone asked for, or asks about, begins otherwise.
_PAGE = re.compile(
    r'\s*<div class="[^"]*(markdown prose|\bwhitespace-pre-wrap\b|flex flex-col items-start gap-)', re.IGNORECASE
)
_ANY = re.compile(r"<(p|div|span)\b[^>]*>")
_COPY_BUTTON = re.compile(r"<button\b[^>]*>.*?</button>", re.DOTALL | re.IGNORECASE)


def holds_html(text: str) -> bool:
    """Whether there is an HTML element of running text anywhere in it, be it as markup or as something talked about."""
    return _ANY.search(text) is not None


def is_page_html(text: str) -> bool:
    """Whether a turn as a whole is HTML that a chat page was saved as, not text or code that holds some."""
    return _PAGE.match(text) is not None


def to_markdown(html: str) -> str | None:
    """The Markdown of a saved turn: headings, lists, tables, code fences; without the page's buttons.

    None for elements within elements within elements, deeper than can be followed.
    """
    from markdownify import markdownify

    try:
        text = markdownify(_COPY_BUTTON.sub("", html), heading_style="ATX", bullets="-", escape_misc=False)
    except RecursionError:
        return None
    return re.sub(r"\n{3,}", "\n\n", text).strip()
