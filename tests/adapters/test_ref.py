"""The grammar of names and refs: what parses, to what, and that nothing else does."""

import pytest

from adapters import AdapterRef, InvalidRefError
from adapters.ref import check_name


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("support-triage", AdapterRef("support-triage")),
        ("support-triage@v3", AdapterRef("support-triage", version=3)),
        ("support-triage@v999999999", AdapterRef("support-triage", version=999_999_999)),
        ("support-triage@1f2e3d4c5b6a", AdapterRef("support-triage", digest12="1f2e3d4c5b6a")),
        ("a", AdapterRef("a")),
        ("v3", AdapterRef("v3")),
        ("a.b_c-9@v1", AdapterRef("a.b_c-9", version=1)),
    ],
)
def test_a_ref_is_read_and_written_the_same(text: str, ref: AdapterRef) -> None:
    assert AdapterRef.parse(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    [
        "name@",
        "name@3",
        "name@v0",
        "name@v03",
        "name@v-1",
        "name@v1.0",
        "name@v1234567890",
        "name@V3",
        "name@live",
        "name@1f2e3d4c5b6",
        "name@1f2e3d4c5b6a7",
        "name@1F2E3D4C5B6A",
        "name@v1@v2",
        "name@v1\n",
        "name@v¹",
    ],
)
def test_what_follows_the_at_is_a_version_or_twelve_digits_and_nothing_else(text: str) -> None:
    with pytest.raises(InvalidRefError, match="write name, name@v3 or name@"):
        AdapterRef.parse(text)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "@v1",
        "Name",
        "na me",
        "-name",
        "name-",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../a",
        "a\\b",
        "a:b",
        "ä",
        "a\n",
        "a" * 65,
    ],
)
def test_a_name_is_safe_in_paths_urls_and_labels(name: str) -> None:
    with pytest.raises(InvalidRefError, match="is not an adapter name; use 1 to 64 lower-case letters"):
        AdapterRef.parse(name)


def test_the_longest_name_has_64_characters() -> None:
    assert check_name("a" * 64) == "a" * 64
