"""The price book: dated, by kind and length, peak and batch; what has no price is an error and never 0."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from gateway.cli.prices import app
from gateway.core import Usage
from gateway.costs.prices.book import PRICE_FILE, SNAPSHOT_FILE, PriceBook
from gateway.costs.prices.rates import PricedTokens, PriceError, Rates, rates_for
from gateway.costs.prices.update import DEFAULT_COMPARISON, changed_prices
from tests.gateway.costs.price_files import SNAPSHOT

DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    return PriceBook.open(tmp_path_factory.mktemp("no-files"))


def charge(book: PriceBook, name: str, tokens: PricedTokens, at: datetime = DAY, *, batch: bool = False) -> Decimal:
    return rates_for(book.find(name).tiers(at, batch=batch), tokens.prompt).charge_usd(tokens)


def own(tmp_path: Path, text: str) -> PriceBook:
    (tmp_path / PRICE_FILE).write_text(text)
    return PriceBook.open(tmp_path)


def entry(**fields: str) -> str:
    values = {"model": '"acme:tiny"', "input": "1", "output": "2", "source": '"https://acme.example/prices"'}
    values |= {"checked_on": "2026-11-01"} | fields
    return "[[price]]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def test_a_request_costs_its_tokens_at_the_list_price(book: PriceBook) -> None:
    name = "anthropic:claude-sonnet-5-5"
    assert charge(book, name, PricedTokens(prompt=10**6)) == 2
    assert charge(book, name, PricedTokens(output=10**6)) == 10
    assert charge(book, name, PricedTokens(prompt=10**6, cached=10**6)) == Decimal("0.1")
    assert charge(book, name, PricedTokens(prompt=10**6, cache_written=10**6)) == Decimal("2.5")


def test_cached_tokens_are_charged_once_whether_the_api_counts_them_inside_the_prompt_or_beside_it(
    book: PriceBook,
) -> None:
    inside = Usage.from_openai({"prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 600}})
    responses = Usage.from_responses({"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 600}})
    beside = Usage.from_anthropic({"input_tokens": 400, "cache_read_input_tokens": 600})
    assert inside == responses == beside
    tokens = PricedTokens(inside.prompt_tokens, inside.completion_tokens, inside.cached_tokens)
    assert charge(book, "openai:gpt-6.1-terra", tokens) == Decimal("0.00043")  # 400 at $1, 600 at $0.05


def test_a_kind_without_a_rate_of_its_own_costs_what_it_is_part_of() -> None:
    rates = Rates(Decimal(1), Decimal(2))
    assert rates.charge_usd(PricedTokens(10**6, 10**6, cached=5 * 10**5, reasoning=10**5)) == 3
    dear = Rates(Decimal(1), Decimal(2), reasoning=Decimal(4))
    assert dear.charge_usd(PricedTokens(0, 10**6, reasoning=5 * 10**5)) == 3


def test_price_tiers_go_by_each_prompt_and_hold_for_the_whole_request(book: PriceBook) -> None:
    name = "anthropic:claude-haiku-5-5"  # five times dearer for prompts over 100,000 tokens
    assert charge(book, name, PricedTokens(200_000)) == 5 * 200 * charge(book, name, PricedTokens(1_000))
    assert charge(book, name, PricedTokens(100_001)) > 4 * charge(book, name, PricedTokens(100_000))
    terra = "openai:gpt-6.1-terra"  # over 272,000: 2 x input, 1.5 x output
    assert charge(book, terra, PricedTokens(300_000, 1000)) == Decimal("0.6075")


def test_announced_changes_apply_from_their_day_on(book: PriceBook) -> None:
    name = "google:gemini-3.8-flash"
    before = charge(book, name, PricedTokens(10**6), datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert charge(book, name, PricedTokens(10**6), datetime(2027, 1, 1, tzinfo=UTC)) == 2 * before
    assert date(2027, 1, 1) in book.find(name).changes()


def test_batches_have_their_own_price_and_none_is_invented(book: PriceBook) -> None:
    name = "openai:gpt-6.1-terra"
    assert charge(book, name, PricedTokens(10**6), batch=True) == charge(book, name, PricedTokens(10**6)) / 2
    with pytest.raises(PriceError, match="no batch price"):
        charge(book, "deepseek:deepseek-flash", PricedTokens(1), batch=True)


def test_peak_hours_cost_more(book: PriceBook) -> None:
    listing = book.find("deepseek:deepseek-flash")
    assert listing.has_peak_hours
    off, peak = (listing.tiers(datetime(2026, 11, 20, hour, tzinfo=UTC))[0].rates.input for hour in (0, 2))
    assert peak == 2 * off


@pytest.mark.parametrize("text", ["openai:no-such-model", "nobody:gpt-6-luna", "gpt-6-luna", ":x", "openai:"])
def test_a_model_without_a_price_is_an_error(book: PriceBook, text: str) -> None:
    with pytest.raises(PriceError) as caught:
        book.find(text)
    assert caught.value.param == "vs"


def test_a_model_priced_by_something_else_than_text_tokens_is_unpriced(book: PriceBook) -> None:
    with pytest.raises(PriceError, match="no price per output token"):
        book.find("openai:text-embedding-3-small").tiers(DAY)


def test_the_default_comparison_is_priced_and_says_where_from(book: PriceBook) -> None:
    for name in DEFAULT_COMPARISON:
        listing = book.find(name)
        assert listing.tiers(DAY)
        assert listing.source.startswith("https://")
        assert listing.origin.startswith("genai-prices ")


def test_every_name_that_is_listed_can_be_found(book: PriceBook) -> None:
    names = book.names()
    assert len(names) > 1000
    assert [book.find(name).name for name in names] == names


def test_the_price_book_reports_its_age_and_asks_for_an_update_when_it_is_old(book: PriceBook) -> None:
    newest = book.catalogue.newest_day
    assert newest is not None
    assert f"{newest} as its newest day, 3 days ago." in book.age(date.fromordinal(newest.toordinal() + 3))
    assert "prices update" in book.age(date.fromordinal(newest.toordinal() + 200))


def test_own_prices_stand_over_the_catalogue_on_their_days_only(tmp_path: Path) -> None:
    text = entry(model='"openai:gpt-6-luna"', input="0.07", valid_from="2026-11-10", valid_to="2026-12-01")
    book, name = own(tmp_path, text), "openai:gpt-6-luna"
    assert charge(book, name, PricedTokens(10**5)) == Decimal("0.007")
    assert charge(book, name, PricedTokens(10**5), datetime(2026, 12, 1, tzinfo=UTC)) == Decimal("0.01")
    assert book.source.startswith("prices.toml under genai-prices")
    assert book.find(name).checked_on == date(2026, 11, 1)


def test_own_prices_may_have_tiers_peaks_and_batches(tmp_path: Path) -> None:
    text = entry(batch_multiplier="0.5", cached_read="0.1")
    text += "[[price.tier]]\nabove_prompt_tokens = 200000\ninput = 3\noutput = 4\n"
    text += '[[price.peak]]\nbegin = "22:00"\nend = "02:00"\ndays = "mon-fri"\nmultiplier = 2\n'
    book = own(tmp_path, text)
    assert charge(book, "acme:tiny", PricedTokens(10**6, cached=10**6), batch=True) == Decimal(
        "1.5"
    )  # the tier has no cache
    assert charge(book, "acme:tiny", PricedTokens(1000, cached=1000)) == Decimal("0.0001")
    friday_night, saturday_night = (datetime(2026, 11, day, 23, tzinfo=UTC) for day in (20, 21))
    assert charge(book, "acme:tiny", PricedTokens(1000), friday_night) == Decimal("0.002")
    assert charge(book, "acme:tiny", PricedTokens(1000), saturday_night) == Decimal("0.001")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (entry(input="-1"), r"price 1 \(acme:tiny\): 'input'"),
        (entry(output="nan"), "'output'"),
        (entry().replace("output = 2\n", ""), "'output': Field required"),
        (entry().replace("source =", "sauce ="), "'source': Field required"),
        (entry(model='"acme"'), "'model'"),
        (entry(valid_from="2026-02-01", valid_to="2026-02-01"), "holds on no day"),
        (entry(valid_to="2026-03-02") + entry(valid_from="2026-03-01"), "acme:tiny hold at once"),
        (entry() + entry(), "hold at once"),
        (entry() + "[[price.tier]]\nabove_prompt_tokens = 500\ninput = 3\noutput = 4\n", "above_prompt_tokens"),
        (entry() + '[[price.peak]]\nbegin = "1:00"\nend = "x"\nmultiplier = 2\n', "peak.0.begin"),
        (
            entry() + '[[price.peak]]\nbegin = "01:00"\nend = "02:00"\ndays = "monday"\nmultiplier = 2\n',
            "write days like 'mon-fri'",
        ),
        ("[[price]\n", "not valid TOML"),
        ("[prices]\n", r"only \[\[price\]\]"),
    ],
)
def test_a_mistake_in_own_prices_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PriceError, match=words):
        own(tmp_path, text)


def test_a_day_outside_own_prices_is_unpriced_when_the_catalogue_does_not_know_the_model(tmp_path: Path) -> None:
    book = own(tmp_path, entry(valid_from="2026-12-01"))
    with pytest.raises(PriceError, match=r"no price for 'acme:tiny' on 2026-11-20, only for 2026-12-01 to now on"):
        charge(book, "acme:tiny", PricedTokens(1))


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/data.json"
        server.shutdown()


def command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_an_update_is_fetched_when_asked_for_and_then_used_offline(tmp_path: Path) -> None:
    with answering(SNAPSHOT.encode()) as url:
        code, text = command("update", "--url", url, "--data-dir", tmp_path)
    assert (code, text.startswith("3 models; ")) == (0, True)  # one fetched, two of ours
    book = PriceBook.open(tmp_path)
    assert charge(book, "openai:gpt-6-luna", PricedTokens(10**6)) == Decimal("0.2")
    with pytest.raises(PriceError, match="claude-sonnet-5-5' in genai-prices of"):
        book.find("anthropic:claude-sonnet-5-5")
    code, text = command("diff", "--data-dir", tmp_path)
    assert code == 0
    assert "0.1 (cached 0.01) in, 0.5 out" in text
    changed = {change["model"]: change["after"] for change in changed_prices(PriceBook.shipped(), book, DAY)}
    assert changed["openai:gpt-6-luna"] == "0.2 in, 0.5 out"
    assert changed["anthropic:claude-sonnet-5-5"] == "unpriced"


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"{}", b"[]", b'[{"id":1}]', SNAPSHOT.replace("0.2", "-1").encode()]
)
def test_what_is_no_price_data_replaces_nothing(tmp_path: Path, content: bytes) -> None:
    given = tmp_path / "given.json"
    given.write_bytes(content)
    code, text = command("update", "--from", given, "--data-dir", tmp_path)
    assert code == 2
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert not (tmp_path / SNAPSHOT_FILE).exists()


def test_without_a_network_the_update_says_so_and_nothing_is_lost(tmp_path: Path) -> None:
    code, text = command("update", "--url", "http://127.0.0.1:9/data.json", "--data-dir", tmp_path)
    assert code == 2
    assert "could not be fetched" in text
    assert charge(PriceBook.open(tmp_path), "openai:gpt-6-luna", PricedTokens(10**5)) == Decimal("0.01")


def test_show_names_source_day_batches_and_changes_to_come(tmp_path: Path) -> None:
    code, text = command("show", "google:gemini-3.8-flash", "--on", "2026-11-20", "--data-dir", tmp_path)
    assert code == 0
    for words in ("2027-01-01", "batch", "https://ai.google.dev/gemini-api/docs/pricing", "checked on", "days ago"):
        assert words in text, words
    code, text = command("show", "google:gemini-9", "--data-dir", tmp_path)
    assert (code, "unpriced" in text) == (2, True)


def test_list_finds_models_by_a_part_of_their_name(tmp_path: Path) -> None:
    code, text = command("list", "gpt-6-luna", "--data-dir", tmp_path, "--json")
    assert code == 0
    assert '"openai:gpt-6-luna"' in text
    code, text = command("list", "no-such-thing", "--data-dir", tmp_path)
    assert (code, text.startswith("error: No model's name contains")) == (2, True)
