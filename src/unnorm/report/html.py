"""HTML that untrusted text cannot leave: Jinja's autoescape, `<` in data written as an escape, hashes of our scripts.

Data stands in JSON blocks that no browser runs; scripts run only if their hash is in the content security policy; Vega
interprets its expressions instead of compiling them.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson
from jinja2 import Environment
from markupsafe import Markup

from unnorm.foundation.terminal import plain
from unnorm.report.theme import dark_style

_ASK = "; connect-src 'self'"


def render(template: str, scripts: Sequence[str], *, live: bool = False, **content: Any) -> str:
    """The page of `web/TEMPLATE` with these scripts, each a text; `content`: what the template names.

    live: the page may ask the server that it came from whether there is news, and nobody else.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["fixed"] = lambda number, digits: "–" if number is None else f"{number:.{digits}f}"
    environment.filters["plain"] = lambda text: plain(str(text))
    environment.filters["together"] = _together
    environment.filters["data"] = _data
    # Vega writes style attributes and its tooltip's style sheet, which no hash can name: styles may be inline, and
    # style alone can load nothing, since every other source is closed.
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src 'unsafe-inline'; img-src data:; "
        f"base-uri 'none'; form-action 'none'{_ASK if live else ''}"
    )
    browser = Markup(environment.from_string(resource("browser.html")).render(**content)) if content["groups"] else ""
    return environment.from_string(resource(template)).render(
        browser=browser,
        policy=policy,
        style=Markup(resource("page.css").replace("/* the dark figures */", dark_style())),
        scripts=[Markup(script) for script in scripts],
        **content,
    )


def resource(name: str) -> str:
    return (files("unnorm.report") / "web" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, as one script without a module loader."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.unnormEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


def _together(text: str) -> str:
    """Lines break before an interval and not within it, nor between ± and its number."""
    kept = re.sub(r"[(\[][^()\[\]]*[)\]]", lambda found: found[0].replace(" ", "\u00a0"), text)
    return kept.replace("± ", "±\u00a0")


def _data(content: Any) -> Markup:
    """JSON that can stand in a script element: no `<`, no `&`, no line separators."""
    text = orjson.dumps(content).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
