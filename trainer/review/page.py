"""The page that raters see: one file of markup, style and script, with the token and the nonce of this showing."""

from importlib.resources import files

CONTENT_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def page(nonce: str, token: str) -> str:
    """The page; both values are letters, digits, dashes and underscores, so that nothing has to be escaped."""
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return text.replace("{{nonce}}", nonce).replace("{{token}}", token)
