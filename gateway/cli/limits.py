"""Limits, budgets and expiry times as options of `turntable keys` and `turntable tenants`, and as cells of tables."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from adapters.admin_client import AdminClient
from gateway.clock import parse_moment
from gateway.errors import InvalidRequestError
from turntable.console import CommandError, print_json, say, show, table_of, usd

Rpm = Annotated[str | None, typer.Option(help="Requests per minute; `none` removes the limit.")]
Tpm = Annotated[str | None, typer.Option(help="Tokens per minute; `none` removes the limit.")]
Concurrency = Annotated[str | None, typer.Option(help="Concurrent requests; `none` removes the limit.")]
MaxTokens = Annotated[str | None, typer.Option(help="Tokens that one request may ask for; `none` removes the limit.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="USD per day, month or in total, like 25/month; 0 blocks all requests; repeatable; `none` removes all.",
    ),
]
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NONE = "none"
_LIMIT_UNITS = {"rpm": "rpm", "tpm": "tpm", "max_concurrency": "at a time", "max_tokens": "tokens each"}
_TIMES = frozenset({"created_at", "expires_at", "old_secret_until", "revoked_at"})


def limits_body(
    rpm: str | None, tpm: str | None, max_concurrency: str | None, max_tokens: str | None, budgets: Sequence[str] | None
) -> dict[str, Any]:
    """The given limits and budgets as a body for the admin API; raises `CommandError` for malformed ones."""
    limits = {"rpm": rpm, "tpm": tpm, "max_concurrency": max_concurrency, "max_tokens": max_tokens}
    given: dict[str, Any] = {name: _limit(name, text) for name, text in limits.items() if text is not None}
    if budgets:
        given["budgets"] = [] if list(budgets) == [_NONE] else [_budget(text) for text in budgets]
    return given


def warn_if_unpriced(admin: AdminClient, given: Mapping[str, Any]) -> None:
    """Warn that a new budget cannot be enforced yet, because the engine's hourly price is not known."""
    if given.get("budgets") and admin.get("/costs/price")["basis"] == "unpriced":
        say(
            "note: requests under a budget are refused until the gateway knows what an engine costs per hour; start it "
            "with --engine-usd-per-hour, or state it in costs.toml.",
            err=True,
        )


def expiry_of(text: str) -> str | None:
    """An expiry time: a moment like 2027-01-01, a duration from now like 30d, or `none`."""
    if text == _NONE:
        return None
    if (seconds := _seconds(text)) is not None:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    try:
        return parse_moment(text).isoformat()
    except InvalidRequestError as error:
        raise CommandError(f"'{text}' is not an expiry time; write it like 2027-01-01, 30d or none.") from error


def seconds_of(text: str) -> int:
    """A duration like 90s, 15m, 24h or 7d in seconds."""
    seconds = _seconds(text)
    if seconds is None:
        raise CommandError(f"'{text}' is not a duration; write it like 90s, 15m, 24h or 7d.")
    return seconds


def limits_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A key or tenant for a table: limits like `600 rpm`, budgets like `$25/month`, times to the minute, in UTC."""
    limits = [f"{row[name]:,} {unit}" for name, unit in _LIMIT_UNITS.items() if row[name] is not None]
    budgets = [f"${budget['usd']}/{budget['period']}" for budget in row["budgets"]]
    left = [f"{usd(float(budget['left_usd']), 2)} of the {budget['period']}" for budget in row.get("spending", ())]
    times = {name: value[:16].replace("T", " ") for name, value in row.items() if name in _TIMES and value}
    return {**row, **times, "limits": limits, "budgets": budgets, "left": left}


def _seconds(text: str) -> int | None:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    return int(found[1]) * _UNITS_S[found[2]] if found else None


def _limit(name: str, text: str) -> int | None:
    if text == _NONE:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", text) or not int(text):
        raise CommandError(
            f"'{text}' is not a limit for --{name.replace('_', '-')}; give a whole number from 1, or none for no limit "
            "(a budget of 0/total blocks all requests)."
        )
    return int(text)


def _budget(text: str) -> dict[str, str]:
    amount, slash, period = text.removeprefix("$").partition("/")
    if not slash:
        raise CommandError(f"'{text}' is not a budget; write it like 25/month, 3/day or 100/total.")
    return {"usd": amount, "period": period}


def show_rows(heads: Mapping[str, str], document: Any, *, as_json: bool) -> None:
    """Print the admin API's document of a key or tenant, or a list of them, as a table or as it is."""
    if as_json:
        print_json(document)
    else:
        rows = document if isinstance(document, list) else [document]
        show(table_of(heads, [limits_row(row) for row in rows]))
