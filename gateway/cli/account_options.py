"""Limits, budgets and ends as they are given on the command line to `turntable keys` and `turntable tenants`."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from adapters.admin_client import AdminClient
from adapters.errors import AdminError
from gateway.clock import parse_moment
from gateway.errors import InvalidRequestError

Rpm = Annotated[str | None, typer.Option(help="Requests per minute; none takes the limit away.")]
Tpm = Annotated[str | None, typer.Option(help="Tokens per minute; none takes the limit away.")]
Concurrency = Annotated[str | None, typer.Option(help="Requests at a time; none takes the limit away.")]
MaxTokens = Annotated[str | None, typer.Option(help="Tokens a request may ask for; none takes the limit away.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", help="Dollars per day, month or in total, like 25/month; 0 blocks; may be repeated; none for none."
    ),
]
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NOTHING = "none"
_LIMIT_UNITS = {"rpm": "rpm", "tpm": "tpm", "max_concurrency": "at a time", "max_tokens": "tokens each"}
_TIMES = frozenset({"created_at", "expires_at", "old_secret_until", "revoked_at"})


def account_of(
    rpm: str | None, tpm: str | None, max_concurrency: str | None, max_tokens: str | None, budgets: Sequence[str] | None
) -> dict[str, Any]:
    """What is given of limits and budgets, as the admin surface takes it; raises `AdminError` for what is neither."""
    limits = {"rpm": rpm, "tpm": tpm, "max_concurrency": max_concurrency, "max_tokens": max_tokens}
    given: dict[str, Any] = {name: _limit(name, text) for name, text in limits.items() if text is not None}
    if budgets:
        given["budgets"] = [] if list(budgets) == [_NOTHING] else [_budget(text) for text in budgets]
    return given


def tell_if_unpriced(admin: AdminClient, given: Mapping[str, Any]) -> None:
    """Say when a budget was given that cannot be checked, because nobody stated what an engine costs."""
    if given.get("budgets") and admin.request("GET", "/costs/price")["basis"] == "unpriced":
        typer.echo(
            "note: requests under a budget are refused until the gateway knows what an engine costs per hour; start it "
            "with --engine-usd-per-hour, or state it in costs.toml.",
            err=True,
        )


def end_of(text: str) -> str | None:
    """When a key ends: a moment like 2027-01-01, a time from now like 30d, or none."""
    if text == _NOTHING:
        return None
    if (seconds := _seconds(text)) is not None:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    try:
        return parse_moment(text).isoformat()
    except InvalidRequestError as error:
        raise AdminError(f"'{text}' is no end; write it like 2027-01-01, 30d or none.") from error


def seconds_of(text: str) -> int:
    """A length of time like 90s, 15m, 24h or 7d."""
    seconds = _seconds(text)
    if seconds is None:
        raise AdminError(f"'{text}' is no length of time; write it like 90s, 15m, 24h or 7d.")
    return seconds


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A key or tenant for a table: limits like `600 rpm`, budgets like `$25/month`, times to the minute, in UTC."""
    limits = [f"{row[name]:,} {unit}" for name, unit in _LIMIT_UNITS.items() if row[name] is not None]
    budgets = [f"${budget['usd']}/{budget['period']}" for budget in row["budgets"]]
    left = [f"${float(one['left_usd']):,.2f} of the {one['period']}" for one in row.get("spending", ())]
    times = {name: value[:16].replace("T", " ") for name, value in row.items() if name in _TIMES and value}
    return {**row, **times, "limits": limits, "budgets": budgets, "left": left}


def _seconds(text: str) -> int | None:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    return int(found[1]) * _UNITS_S[found[2]] if found else None


def _limit(name: str, text: str) -> int | None:
    if text == _NOTHING:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", text) or not int(text):
        raise AdminError(
            f"'{text}' is no limit for --{name.replace('_', '-')}; give a whole number from 1, or none for no limit "
            "(a budget of 0/total lets nothing through)."
        )
    return int(text)


def _budget(text: str) -> dict[str, str]:
    usd, slash, period = text.removeprefix("$").partition("/")
    if not slash:
        raise AdminError(f"'{text}' is no budget; write it like 25/month, 3/day or 100/total.")
    return {"usd": usd, "period": period}
