"""Samples of keys are put together here, so that no scanner takes this file for a leak."""

import json
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.pii import KINDS, find_pii, is_card, is_iban
from trainer.data.redaction import Redactor, count_row

LETTERS = string.ascii_letters + string.digits
RANDOM = "Zk3vQ9xB7mT1nR5wL8cY2pD6fH4jS0gA" * 3
PEM = f"-----BEGIN RSA {'PRIVATE'} KEY-----\nMIIEow\nIBAAK\n-----END RSA {'PRIVATE'} KEY-----"


def kinds(text: str) -> list[str]:
    return [found.kind for found in find_pii(text)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("card 4111 1111 1111 1111.", "CARD"),
        ("1 2 3 4 5 4111-1111-1111-1111", "CARD"),
        ("amex 3782 822463 10005", "CARD"),
        ('{"card": 5555555555554444}', "CARD"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN"),
        ("gb29nwbk60161331926819", "IBAN"),
        ("to FR14 2004 1010 0505 0001 3M02 606 today", "IBAN"),
        ("ssn 078-05-1120", "SSN"),
        ("write to j.doe+x@mail.example.co.uk", "EMAIL"),
        ("jürgen@exämple.de", "EMAIL"),
        ("call +49 (0)30 1234-5678 now", "PHONE"),
        ("call (212) 555-0123", "PHONE"),
        ("call 1-212-555-0123", "PHONE"),
        (PEM, "PRIVATE_KEY"),
        (PEM[:60], "PRIVATE_KEY"),
        (json.dumps(PEM), "PRIVATE_KEY"),
        *((prefix + RANDOM[:length], "API_KEY") for prefix, length in [
            ("sk-", 48), ("sk-" + "proj-", 40), ("sk-" + "ant-api03-", 80), ("AIza", 35), ("ghp" + "_", 36),
            ("github_" + "pat_", 60), ("glpat" + "-", 20), ("xoxb" + "-", 30), ("sk" + "_live_", 24), ("hf" + "_", 34),
            ("npm" + "_", 36), ("pypi" + "-", 60), ("tt" + "-", 43), ("gsk" + "_", 52),
        ]),
        ("AKIA" + "IOSFODNN7EXAMPLE", "API_KEY"),
        ("AWS_SECRET_" + "ACCESS_KEY=" + RANDOM[:40], "API_KEY"),
        ("eyJ" + RANDOM[:20] + ".eyJ" + RANDOM[:30] + "." + RANDOM[:40], "API_KEY"),
        ("dop" + "_v1_" + "0af1" * 16, "API_KEY"),
        ("AccountName=shop;AccountKey=" + RANDOM[:86] + "==;", "API_KEY"),
        ("post to https://hooks.slack.com/services/" + "T0AB12CD3/B0EF45GH6/" + RANDOM[:24], "API_KEY"),
        ("postgres://admin:" + "hunter2secret@db.shop.com:5432/orders", "PASSWORD"),
        ("mongodb+srv://root:" + "s3cr3t@cluster0.mongodb.net", "PASSWORD"),
        ('{"user": "ann", "password": "' + "Tr0ub4dor&3" + '"}', "PASSWORD"),
        ("DB_PASSWORD=" + "k9!vQ2xL", "PASSWORD"),
        ("Hello, my password is " + "Blue42Horse!", "PASSWORD"),
        ("client_secret: " + RANDOM[:32], "PASSWORD"),
        ("NINO AB 12 34 56 C", "NATIONAL_ID"),
        ("Steuer-ID 86095742719", "NATIONAL_ID"),
        ("86 095 742 719", "NATIONAL_ID"),
        ("BSN: 111222333", "NATIONAL_ID"),
        ("NIR 2 95 10 99 126 111 93", "NATIONAL_ID"),
        ("2341 2341 2346", "NATIONAL_ID"),
        ("CPF 390.533.447-05", "NATIONAL_ID"),
        ("DNI 54362315K", "NATIONAL_ID"),
        ("NIE X2482300W", "NATIONAL_ID"),
        ("RSSMRA85T10A562S", "NATIONAL_ID"),
        ("PESEL 44051401359", "NATIONAL_ID"),
        ("AHV 756.9217.0769.85", "NATIONAL_ID"),
        ("ring 020 7946 0958 today", "PHONE"),
        ("Telefon: 030 2345678", "PHONE"),
        ("tél. 01 42 68 53 00", "PHONE"),
        ("the client at 8.8.8.8 failed", "IP_ADDRESS"),
        ("date of birth: 1984-03-12", "BIRTH_DATE"),
        ('{"dob": "12/03/1984"}', "BIRTH_DATE"),
        ("Passport number: C01X00T47", "PASSPORT"),
        ("SG" + "." + RANDOM[:22] + "." + RANDOM[:43], "API_KEY"),
    ],
)  # fmt: skip
def test_each_kind_is_found(text: str, kind: str) -> None:
    assert kinds(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",  # check digit
        "order 9911111111111111",  # no issuer
        "= 4212883012996",  # Visa had 13 digits once; today such a number is a sum
        "0.4111111111111111",  # a fraction
        "41111111111111110000000",  # part of a longer number
        "DE88 3704 0044 0532 0130 00",  # remainder
        "XX89 3704 0044 0532 0130 00",  # no country
        "ssn 000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567",
        "user@localhost, @handle, a@b",
        "me@example.com, you@mail.example.org, x@y.test",  # domains that belong to nobody
        "+960397912423686",  # a sum: too long for a phone number
        "2026-11-25 12:00:00, build 1.20.300.4000, 10.0.0.1",
        "order 1234567890, tracking 9400110200881234567890",
        "sk-short, hf_x, the tt-series, AKIA",
        "-----BEGIN CERTIFICATE-----",
        "password: [PASSWORD_1], password = your_password, password: ********, api_key=API_KEY, secret: string",
        "Reset your password: it must have 8 characters. The secret is patience. Keys: value",
        "https://example.com/a:b@c, ${DB_PASSWORD}, postgres://user:<password>@host",
        "54362315A, 86095742718, 390.533.447-06, 756.9217.0769.86",  # check digits
        "GB123456C, ticket 111222333, order 86095742719, 44051401359",  # a prefix not given out; nothing announces them
        "version 8.8.8.8, 192.168.0.1, 127.0.0.1, 300.1.1.1, 203.0.113.7",
        "Einstein was born on 14 March 1879; the passport office",
        "2026 07 15, 100 200 300, 12 345 678, 1 000 000 000",
    ],
)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert kinds(text) == []


@given(st.text(string.digits, min_size=12, max_size=18))
def test_of_ten_last_digits_at_most_one_makes_a_card(head: str) -> None:
    assert sum(is_card(head + digit) for digit in string.digits) <= 1


@given(st.text(string.digits, min_size=18, max_size=18), st.integers(0, 19), st.integers(1, 9))
def test_a_changed_digit_makes_an_iban_wrong(account: str, place: int, change: int) -> None:
    check = 98 - int(f"{account}131400") % 97
    digits = f"{check:02}{account}"
    changed = digits[:place] + str((int(digits[place]) + change) % 10) + digits[place + 1 :]
    assert is_iban(f"DE{digits}")
    assert not is_iban(f"DE{changed}")


def luhn(head: str) -> str:
    return next(head + digit for digit in string.digits if is_card(head + digit))


RESERVED = ("example", "test", "invalid")

SECRETS: dict[str, st.SearchStrategy[str]] = {
    "CARD": st.text(string.digits, min_size=14, max_size=14).map(lambda digits: luhn(f"4{digits}")),
    "SSN": st.tuples(st.integers(1, 665), st.integers(1, 99), st.integers(1, 9999)).map(
        lambda parts: f"{parts[0]:03}-{parts[1]:02}-{parts[2]:04}"
    ),
    "EMAIL": st.from_regex(r"[a-z0-9]{1,20}@[a-z0-9]{1,20}\.[a-z]{2,6}", fullmatch=True).filter(
        lambda address: not address.endswith(RESERVED) and "@example." not in address
    ),
    "PHONE": st.from_regex(r"\+[1-9] ?[0-9]{3} ?[0-9]{6}", fullmatch=True),
    "API_KEY": st.text(LETTERS, min_size=40, max_size=60).map(lambda tail: f"sk-{tail}"),
}
SURROUNDING = st.text(st.characters(exclude_categories=("Nd", "L", "Cs"), exclude_characters="@+-_."), max_size=12)


@given(st.data(), st.sampled_from(sorted(SECRETS)), SURROUNDING, SURROUNDING)
def test_nothing_of_a_secret_remains(data: st.DataObject, kind: str, before: str, after: str) -> None:
    secret = data.draw(SECRETS[kind])
    row = {"messages": [{"role": "user", "content": f"{before} {secret} {after}"}], "note": [secret]}
    redactor = Redactor()
    redacted = redactor.row(row)
    assert secret not in json.dumps(redacted)
    assert redacted["note"] == [f"[{kind}_1]"]
    assert redacted["messages"][0]["content"] == f"{before} [{kind}_1] {after}"
    assert redactor.counts == {kind: 2}


NOISE = st.one_of(
    st.text(),
    st.text("0123456789 -+().@ab", max_size=60),
    st.from_regex(r"(sk-|eyJ|DE|-----BEGIN |\+|4111 ?){1,4}[A-Za-z0-9@. \n-]{0,60}", fullmatch=True),
    *SECRETS.values(),
)


@given(st.lists(NOISE, max_size=6).map("".join))
def test_redaction_is_idempotent_and_leaves_nothing_to_find(text: str) -> None:
    once = Redactor().text(text)
    assert find_pii(once) == []
    assert Redactor().text(once) == once
    assert all(kind in KINDS for kind in kinds(text))


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), NOISE, st.just(4111111111111111)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NOISE, inner, max_size=3)),
        max_leaves=8,
    ).map(lambda value: json.dumps([value]))
)
def test_json_stays_json(text: str) -> None:
    redacted = Redactor().text(text)
    json.loads(redacted)
    assert find_pii(redacted) == []


def test_a_piece_has_one_mark_throughout_the_row_and_other_marks_are_not_reused() -> None:
    row = {"asked": "A@b.com or c@d.com? [EMAIL_1]", "answer": '{"to": "a@b.com", "card": 4111111111111111}'}
    assert Redactor().row(row) == {
        "asked": "[EMAIL_2] or [EMAIL_3]? [EMAIL_1]",
        "answer": '{"to": "[EMAIL_2]", "card": "[CARD_1]"}',
    }
    assert count_row(row) == {"EMAIL": 3, "CARD": 1}


@pytest.mark.parametrize("make", [lambda n: "a" * n, lambda n: "1 " * n, lambda n: "DE12" * n, lambda n: "+1-" * n])
def test_long_texts_are_scanned_in_linear_steps(make: Callable[[int], str]) -> None:
    assert find_pii(make(20_000) + "@") == []
