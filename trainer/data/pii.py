"""Finding national identity and tax numbers in text: by their form, their check digits, and words that announce them.

Numbers with one check digit and no other form (a bare run of digits) count only behind a word that says what they are:
one in ten of all numbers would pass by chance.

Finding secrets and personal data in text: by their form, and by their check digits where they have any.

Cards are found by issuer, length and Luhn's sum, IBANs by country, length and the remainder mod 97, US social security
numbers by their valid ranges, keys by the prefixes of their vendors, other countries' phone numbers by the numbering
plans that phonenumbers holds, dates of birth and passports by the words before them. Names and postal addresses have no
form that a pattern could tell, and are not found.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

from trainer.data.credentials import passwords, service_keys

_CUE_CHARACTERS = 48
_BARE = r"(?<![\w.,+-])(?<![\d] )"
_END = r"(?![\w-])(?![.,]\d)"


@dataclass(frozen=True, slots=True)
class _Form:
    """One kind of number: how it is written, what its digits must satisfy, and the words before it, if it takes any."""

    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    cue: re.Pattern[str] | None = None


def national_ids(text: str) -> Iterator[tuple[int, int]]:
    """Where the numbers stand; `text` holds a digit."""
    for form in _FORMS:
        for match in form.pattern.finditer(text):
            before = text[max(0, match.start() - _CUE_CHARACTERS) : match.start()]
            announced = form.cue is None or form.cue.search(before) is not None
            if announced and form.is_valid(re.sub(r"[^0-9A-Z]", "", match.group().upper())):
                yield match.span()


def is_nino(number: str) -> bool:
    """Whether letters and digits are a UK national insurance number: no check digit, but prefixes that are not used."""
    return number[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def is_tax_id(number: str) -> bool:
    """Whether 11 digits are a German tax id: one digit comes two or three times, then ISO 7064 MOD 11,10."""
    counts = sorted(number[:10].count(digit) for digit in set(number[:10]))
    if number[0] == "0" or counts[-1] not in (2, 3) or (len(counts) > 1 and counts[-2] > 1):
        return False
    rest = 10
    for digit in number[:10]:
        rest = ((rest + int(digit)) % 10 or 10) * 2 % 11
    return (11 - rest) % 10 == int(number[10])


def is_bsn(number: str) -> bool:
    """Whether 9 digits are a Dutch BSN: weights 9 to 2 and -1, a sum that 11 divides."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return int(number) > 0 and _weighted(number, weights) % 11 == 0


def is_nir(number: str) -> bool:
    """Whether 15 places are a French NIR: its key is 97 minus the remainder; Corsica's letters count as numbers."""
    digits = number[:13].replace("2A", "19").replace("2B", "18")
    return digits.isdigit() and 97 - int(digits) % 97 == int(number[13:])


def is_aadhaar(number: str) -> bool:
    """Whether 12 digits are an Indian Aadhaar number: Verhoeff's check digit, no palindrome."""
    check = reduce(lambda so_far, one: _dihedral(so_far, _permuted(int(one[1]), one[0])), _numbered(number), 0)
    return check == 0 and number != number[::-1]


def is_cpf(number: str) -> bool:
    """Whether 11 digits are a Brazilian CPF: two check digits, and not one digit throughout."""
    first = _weighted(number, range(10, 1, -1)) * 10 % 11 % 10
    second = _weighted(number, range(11, 1, -1)) * 10 % 11 % 10
    return len(set(number)) > 1 and number[9:] == f"{first}{second}"


def is_dni(number: str) -> bool:
    """Whether a Spanish DNI or NIE has its letter: the number's remainder by 23."""
    digits = number[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return number[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23]


def is_codice_fiscale(number: str) -> bool:
    """Whether 16 places are an Italian codice fiscale: places counted from 1, the odd ones by a table of their own."""
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    values = [int(one) if one.isdigit() else ord(one) - ord("A") for one in number[:15]]
    total = sum(odd[value] if place % 2 == 0 else value for place, value in enumerate(values))
    return number[15] == chr(ord("A") + total % 26)


def is_pesel(number: str) -> bool:
    """Whether 11 digits are a Polish PESEL: a month that exists in its century, and a weighted sum."""
    is_date = 1 <= int(number[2:4]) % 20 <= 12 and 1 <= int(number[4:6]) <= 31
    return is_date and _weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def is_ahv(number: str) -> bool:
    """Whether 13 digits are a Swiss AHV number: an EAN-13."""
    return _weighted(number, (1, 3) * 6 + (1,)) % 10 == 0


def _weighted(number: str, weights: Sequence[int]) -> int:
    """The sum of the digits by their weights, as far as there are weights."""
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=False))


def _numbered(number: str) -> list[tuple[int, str]]:
    return list(enumerate(reversed(number)))


def _dihedral(one: int, other: int) -> int:
    """The product of two elements of the symmetries of a pentagon: 0 to 4 turn it, 5 to 9 turn it over."""
    if one < 5:
        return (one + other) % 5 if other < 5 else 5 + (one + other - 5) % 5
    return 5 + (one - 5 - other) % 5 if other < 5 else (one - other) % 5


def _permuted(digit: int, place: int) -> int:
    """A digit after as many of Verhoeff's permutations as its place says."""
    for _ in range(place % 8):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit


def _cue(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.IGNORECASE)


def _form(pattern: str, is_valid: Callable[[str], bool], cue: str | None = None) -> _Form:
    return _Form(re.compile(rf"{_BARE}{pattern}{_END}"), is_valid, None if cue is None else _cue(cue))


_FORMS = (
    _form(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", is_nino),
    _form(r"[1-9]\d [0-9]{3} [0-9]{3} [0-9]{3}", is_tax_id),
    _form(r"[1-9]\d{10}", is_tax_id, r"steuer[- ]?(?:id|identifikations?nummer|nummer)|idnr|id-nr|tax (?:id|number)"),
    _form(r"\d{4}[ .]?\d{2}[ .]?\d{3}", is_bsn, r"bsn|burgerservicenummer|sofi-?nummer"),
    _form(r"[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", is_nir),
    _form(r"[2-9]\d{3} \d{4} \d{4}(?! \d)", is_aadhaar),
    _form(r"[2-9]\d{11}", is_aadhaar, r"aadhaar|aadhar|uidai"),
    _form(r"\d{3}\.\d{3}\.\d{3}-\d{2}", is_cpf),
    _form(r"\d{11}", is_cpf, r"cpf"),
    _form(r"(?:\d{8}|[XYZ]-?\d{7})-?[A-Z]", is_dni),
    _form(r"[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", is_codice_fiscale),
    _form(r"\d{11}", is_pesel, r"pesel"),
    _form(r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}", is_ahv),
)


PRIVATE_KEY, API_KEY, PASSWORD, CARD, IBAN, SSN = "PRIVATE_KEY", "API_KEY", "PASSWORD", "CARD", "IBAN", "SSN"
NATIONAL_ID, EMAIL, PHONE, IP_ADDRESS = "NATIONAL_ID", "EMAIL", "PHONE", "IP_ADDRESS"
BIRTH_DATE, PASSPORT = "BIRTH_DATE", "PASSPORT"
SECRETS = (PRIVATE_KEY, API_KEY, PASSWORD)
NAMES = {
    PRIVATE_KEY: "a private key",
    API_KEY: "an API key",
    PASSWORD: "a password",
    CARD: "a card number",
    IBAN: "an IBAN",
    SSN: "a social security number",
    NATIONAL_ID: "a national identity number",
    EMAIL: "an e-mail address",
    PHONE: "a phone number",
    IP_ADDRESS: "an IP address",
    BIRTH_DATE: "a date of birth",
    PASSPORT: "a passport number",
}
KINDS = tuple(NAMES)

# What a key of each vendor looks like: its prefix, which is looked for first because that is cheap, and its form.
_KEY_FORMS = {
    "sk-": r"sk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek
    "AKIA": r"AKIA[A-Z0-9]{16}",
    "ASIA": r"ASIA[A-Z0-9]{16}",
    "aws_secret": r"(?i:aws_secret_access_key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?[A-Za-z0-9/+]{40}",
    "AIza": r"AIza[A-Za-z0-9_-]{35}",  # Google
    "ghp_": r"ghp_[A-Za-z0-9]{36,}",  # GitHub, six kinds
    "gho_": r"gho_[A-Za-z0-9]{36,}",
    "ghu_": r"ghu_[A-Za-z0-9]{36,}",
    "ghs_": r"ghs_[A-Za-z0-9]{36,}",
    "ghr_": r"ghr_[A-Za-z0-9]{36,}",
    "github_pat_": r"github_pat_[A-Za-z0-9_]{22,}",
    "glpat-": r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    "xox": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    "k_live_": r"[rs]k_live_[A-Za-z0-9]{16,}",  # Stripe
    "k_test_": r"[rs]k_test_[A-Za-z0-9]{16,}",
    "hf_": r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    "SG.": r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    "npm_": r"npm_[A-Za-z0-9]{36,}",
    "pypi-": r"pypi-[A-Za-z0-9_-]{50,}",
    "dop_v1_": r"dop_v1_[a-f0-9]{64}",  # DigitalOcean
    "gsk_": r"gsk_[A-Za-z0-9]{40,}",  # Groq
    "xai-": r"xai-[A-Za-z0-9]{40,}",
    "tt-": r"tt-[A-Za-z0-9_-]{32,}",  # Turntable
    "eyJ": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web token
}
_KEY_PATTERNS = {prefix: re.compile(rf"(?<![A-Za-z0-9]){form}") for prefix, form in _KEY_FORMS.items()}
# The fewest characters of anything that is looked for, an e-mail address, and of a key.
_SHORTEST, _SHORTEST_KEY = 6, 15
_PEM_MARK = "-----BEGIN "
# A key that is cut off is a secret too: without an end it reaches to the end of the text.
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{2,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]*?-----END (?:[A-Z0-9]{2,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----|[\s\S]*)"
)
_EMAIL = re.compile(r"[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
# Domains that belong to nobody (RFC 2606), as in documentation and made-up rows.
_RESERVED = re.compile(r"[@.](?:example\.(?:com|net|org)|example|test|invalid|localhost)$", re.IGNORECASE)
# Without six digits in a row, or the places of a codice fiscale, there is no national number.
_SIX_DIGITS = re.compile(r"\d(?:[ .]?\d){5}")
_CODICE = re.compile(r"[A-Z]{6}\d\d[A-Z]\d\d")
_NINE_DIGITS = re.compile(r"\d(?:[ .()/-]{0,2}\d){8}")
_DIGIT_GROUPS = re.compile(r"(?<!\d)(?<!\d[.,])\d+(?:[ -]\d+)*")
_CARD_GROUPS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3))
# Issuers by their first digits (how many, from, to) and lengths: Visa, Mastercard, Amex, Discover, JCB, Diners.
_ISSUERS = (
    (1, 4, 4, (16, 19)),
    (2, 51, 55, (16,)),
    (4, 2221, 2720, (16,)),
    (2, 34, 34, (15,)),
    (2, 37, 37, (15,)),
    (4, 6011, 6011, (16, 19)),
    (3, 644, 649, (16, 19)),
    (2, 65, 65, (16, 19)),
    (4, 3528, 3589, (16, 19)),
    (3, 300, 305, (14,)),
    (2, 36, 36, (14,)),
    (2, 38, 39, (14,)),
)
_IBAN_HEAD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}")
_IBAN_LENGTHS = {
    int(length): set(countries.split())
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ TL OM SO",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "FR GR IT MC MR SM BI DJ",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
    }.items()
}
_IBAN_LENGTH = {country: length for length, countries in _IBAN_LENGTHS.items() for country in countries}
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_PHONES = (
    re.compile(r"(?<![\w+])\+[1-9](?:[ .()/-]{0,2}\d){7,12}(?!\d)"),
    re.compile(r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}(?![\w-])"),
)
# National forms with a trunk prefix of 0, or announced; which are numbers of the country is asked of phonenumbers.
_NATIONAL_PHONE = re.compile(r"(?<![\w+./,-])(?<!\d )(?:\(0\d{1,5}\)|\d{2,5})(?:[ ./-]{1,2}\d{2,8}){1,5}(?![\w./-]?\d)")
_PHONE_CUE = re.compile(
    r"(?<![^\W_])(?:tel|phone|telephone|telefon|mobile?|handy|cell|fax|call|whatsapp|t[eé]l[eé]phone|tel[eé]fono|telefoon"
    r"|ring|rufen|dial)(?![^\W_])\W{0,3}(?:\w+\W{1,2}){0,3}$",
    re.IGNORECASE,
)
_PHONE_REGIONS = ("GB", "DE", "FR", "NL", "BE", "CH", "AT", "IT", "ES", "PL", "SE", "IN", "AU", "BR", "JP")
# What may not stand before it is looked at afterwards: a pattern that begins with a digit is searched for faster.
_IP = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w.]?\d|\.\w)")
_VERSION_CUE = re.compile(r"(?:version|release|build|firmware|driver|chapter|section|v)\W{0,2}$", re.IGNORECASE)
_BIRTH_DATE = re.compile(
    r"(?<![^\W_])(?:date of birth|birth ?date|d\.?o\.?b\.?|geburtsdatum|geboren am|date de naissance"
    r"|fecha de nacimiento|geboortedatum|data di nascita|data urodzenia)['\"]?\s{0,3}[:=]?\s{0,3}['\"]?"
    r"(\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./ ]{1,2}(?:\d{1,2}|[^\W\d_]{3,10})[-./ ]{1,2}\d{2,4}"
    r"|[^\W\d_]{3,10} \d{1,2},? \d{4})",
    re.IGNORECASE,
)
_BIRTH_MARKS = ("birth", "dob", "d.o.b", "gebur", "geboren", "geboorte", "naiss", "nacim", "nascita", "urodz")
_PASSPORT_MARKS = ("passport", "reisepass", "passeport", "pasaporte", "passaporto")
_PASSPORT = re.compile(
    r"(?<![^\W_])(?:passport|reisepass|passeport|pasaporte|passaporto)[\w -]{0,12}?"
    r"(?:no|nr|number|nummer|num[eé]ro|n[uú]mero|#)?['\"]?\W{1,4}(?:is )?((?=(?:[A-Z]*\d){5})[A-Z0-9]{7,9})(?!\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PiiMatch:
    """One piece of personal data: its kind (one of `KINDS`) and where it stands in the text."""

    kind: str
    begin: int
    end: int


def find_pii(text: str) -> list[PiiMatch]:
    """What a text holds, in order and without overlaps; of two overlapping finds the one of the earlier kind counts."""
    found: list[PiiMatch] = []
    if len(text) < _SHORTEST:
        return found
    for candidate in _candidates(text):
        if not any(candidate.begin < other.end and other.begin < candidate.end for other in found):
            found.append(candidate)
    return sorted(found, key=lambda one: one.begin)


def _candidates(text: str) -> Iterator[PiiMatch]:
    """What might be found, the kinds in the order in which they count; overlaps are sorted out by `find`."""
    lowered = text.lower()
    # A letter whose lower case is longer would shift places; such texts are looked at as they are.
    lowered = lowered if len(lowered) == len(text) else text
    yield from _secrets(text, lowered)
    digits = _NINE_DIGITS.search(text) is not None
    if digits:
        yield from (PiiMatch(CARD, *span) for span in _cards(text))
    yield from (PiiMatch(IBAN, *span) for span in _ibans(text))
    if digits:
        yield from (PiiMatch(SSN, *match.span()) for match in _SSN.finditer(text))
    if _SIX_DIGITS.search(text) or _CODICE.search(text):
        yield from (PiiMatch(NATIONAL_ID, *span) for span in national_ids(text))
    if "@" in text:
        yield from (
            PiiMatch(EMAIL, *match.span()) for match in _EMAIL.finditer(text) if not _RESERVED.search(match.group())
        )
    if digits:
        yield from (PiiMatch(PHONE, *match.span()) for pattern in _PHONES for match in pattern.finditer(text))
        yield from (PiiMatch(PHONE, *span) for span in _national_phones(text))
    yield from (PiiMatch(IP_ADDRESS, *span) for span in _addresses(text))
    yield from _announced(text, lowered)


def _secrets(text: str, lowered: str) -> Iterator[PiiMatch]:
    if _PEM_MARK in text:
        yield from (PiiMatch(PRIVATE_KEY, *match.span()) for match in _PEM.finditer(text))
    for prefix, pattern in _KEY_PATTERNS.items() if len(text) >= _SHORTEST_KEY else ():
        if prefix in text or (prefix == "aws_secret" and "AWS_SECRET" in text):
            yield from (PiiMatch(API_KEY, *match.span()) for match in pattern.finditer(text))
    yield from (PiiMatch(API_KEY, *span) for span in service_keys(text, lowered))
    yield from (PiiMatch(PASSWORD, *span) for span in passwords(text, lowered))


def _announced(text: str, lowered: str) -> Iterator[PiiMatch]:
    """What only the words before it tell from any other date or number."""
    if any(mark in lowered for mark in _BIRTH_MARKS):
        yield from (PiiMatch(BIRTH_DATE, *match.span(1)) for match in _BIRTH_DATE.finditer(text))
    if any(mark in lowered for mark in _PASSPORT_MARKS):
        yield from (PiiMatch(PASSPORT, *match.span(1)) for match in _PASSPORT.finditer(text))


def _national_phones(text: str) -> Iterator[tuple[int, int]]:
    """Numbers in the form of a country, as that country groups them; others only where a word says that one follows."""
    for match in _NATIONAL_PHONE.finditer(text):
        number = match.group()
        if not 9 <= sum(one.isdigit() for one in number) <= 12:
            continue
        announced = _PHONE_CUE.search(text[max(0, match.start() - 40) : match.start()]) is not None
        is_likely = announced or number.lstrip("(").startswith("0")
        if is_likely and any(_is_phone(number, region, announced=announced) for region in _PHONE_REGIONS):
            yield match.span()


def _is_phone(number: str, region: str, *, announced: bool) -> bool:
    import phonenumbers

    leniency = phonenumbers.Leniency.VALID if announced else phonenumbers.Leniency.STRICT_GROUPING
    return phonenumbers.PhoneNumberMatcher(number, region, leniency).has_next()


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """IPv4 addresses that are somebody's: no private ones, none kept for documents, and no version numbers."""
    for match in _IP.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if before[-1:].isalnum() or before.endswith((".", "_")) or _VERSION_CUE.search(before):
            continue
        try:
            address = ipaddress.IPv4Address(match.group())
        except ValueError:
            continue
        if address.is_global and not address.is_multicast:
            yield match.span()


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _DIGIT_GROUPS.finditer(text):
        groups = [(match.start() + group.start(), group.group()) for group in re.finditer(r"\d+", match.group())]
        sizes = [len(digits) for _, digits in groups]
        for begin, (at, _) in enumerate(groups):
            for form in ((sizes[begin],), *_CARD_GROUPS):
                taken = groups[begin : begin + len(form)]
                if tuple(sizes[begin : begin + len(form)]) == form and is_card("".join(part for _, part in taken)):
                    yield at, taken[-1][0] + form[-1]


def is_card(number: str) -> bool:
    """Whether the digits are a card number of a known issuer with a right check digit."""
    issued = any(
        first <= int(number[:size]) <= last and len(number) in lengths for size, first, last, lengths in _ISSUERS
    )
    if not issued:
        return False
    doubled = (int(digit) * (2 if index % 2 else 1) for index, digit in enumerate(reversed(number)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN_HEAD.finditer(text):
        length = _IBAN_LENGTH.get(match.group()[:2].upper(), 0)
        kept = accumulate(character != " " for character in match.group())
        end = next((index + 1 for index, count in enumerate(kept) if count == length), 0)
        iban = match.group()[:end].replace(" ", "").upper()
        after = text[match.start() + end : match.start() + end + 1]
        if end and is_iban(iban) and not (after.isalnum() and match.group()[end - 1 : end] != " "):
            yield match.start(), match.start() + end


def is_iban(iban: str) -> bool:
    """Whether an upper-case IBAN without spaces has its country's length and the remainder 1."""
    if len(iban) != _IBAN_LENGTH.get(iban[:2]) or not iban.isascii() or not iban.isalnum():
        return False
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1
