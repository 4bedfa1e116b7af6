"""The page as a single file of style, script and data, in which no text can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# In JSON these occur only in strings. The first three could end the data's element or begin a
# comment; the others end a line of script in old browsers.
_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def page(content: dict[str, Any]) -> str:
    """The HTML of a page that neither needs nor may use the network.

    Args:
        content: as from `content.content`.
    """
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = (HERE / "page.html").read_text(encoding="utf-8")
    for name, text in (
        ("style-hash", _hash(style)),
        ("script-hash", _hash(script)),
        ("style", style),
        ("script", script),
        ("data", embedded(content)),  # last, since it may contain anything
    ):
        template = template.replace(f"{{{{ {name} }}}}", text)
    return template


def embedded(values: object) -> str:
    """JSON that is safe inside an HTML element and parses to the same values."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def _hash(text: str) -> str:
    """A hash for a Content-Security-Policy that allows only exactly this text to run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
