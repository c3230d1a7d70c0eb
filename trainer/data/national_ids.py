"""Finding national identity and tax numbers in text: by their form, their check digits, and words that announce them.

Numbers with one check digit and no other form (a bare run of digits) count only behind a word that says what they are:
one in ten of all numbers would pass by chance.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

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
