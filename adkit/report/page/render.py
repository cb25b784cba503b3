"""How pages are made of templates: what comes from outside is text, and nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adkit.utils.escapes import harmless_lines

TEMPLATES: Final = Path(__file__).parent / "templates"


def environment(templates: Path = TEMPLATES) -> Environment:
    """Make the templates of a folder."""
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )


def style() -> Markup:
    """The style of all pages; nothing from outside is in it, so that it may stand in a page as it is."""
    return Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))


def policy(style: str, script: str) -> str:
    """A content security policy under which nothing but this style and this script takes effect, and nothing loads."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _shown(found: Any) -> Any:
    """Text from outside made harmless; autoescape does the rest."""
    return harmless_lines(found) if isinstance(found, str) and not isinstance(found, Markup) else found
