"""Render a page from a template: `PACKAGE/FILE`, found in that package; HTML escapes all values, Markdown as well.

Jinja2 is imported when the first page is rendered, so that commands which make none start without it.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from turntable.pages.svg import chart_style

if TYPE_CHECKING:
    from jinja2 import Environment

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&!])")
_BACKTICKS = re.compile(r"`+")


def page(template: str, **values: Any) -> str:
    """Render an HTML page that loads nothing and, unless the caller gives a `nonce`, runs nothing.

    Raises `jinja2.UndefinedError` for a value that the template needs and did not get.
    """
    style = stylesheet()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    fixed = {"stylesheet": Markup(style), "policy": policy, "nonce": None}  # noqa: S704 - a file of ours
    return _environment("html").get_template(template).render(fixed | values)


def markdown(template: str, **values: Any) -> str:
    """Render a Markdown file in which no value is markup."""
    text = _environment("md").get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text)


def stylesheet() -> str:
    """Return the style of all pages."""
    return files(__package__).joinpath("page.css").read_text(encoding="utf-8") + chart_style()


@cache
def _environment(kind: str) -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=kind == "html",  # noqa: S701 - in Markdown `finalize` escapes every value
        finalize=None if kind == "html" else _plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["fenced"] = _fenced
    return environment


def _source(template: str) -> str:
    package, _, name = template.partition("/")
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _plain(value: object) -> object:
    """Write a value as one line in which nothing is Markdown; markup made by a filter stays."""
    return value if isinstance(value, Markup) else _MARKDOWN.sub(r"\\\1", " ".join(str(value).split()))


def _fenced(text: str) -> Markup:
    """Put text into a fence that nothing in it can close."""
    fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
    return Markup(f"{fence}\n{text}\n{fence}")  # noqa: S704 - Markdown, where the fence keeps text from being markup
