"""Rendering: values are escaped, missing ones are an error, the policy allows our style and nothing else."""

import base64
import hashlib
import re
import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from turntable.pages import render
from turntable.pages.tables import PageTable

NASTY = "<img src=x onerror=alert(1)> | `# _x_"


def load_page(**changes: object) -> str:
    values: dict[str, object] = {
        name: [] for name in ("sentences", "tiles", "charts", "models", "settings", "definitions")
    }
    values |= {"title": NASTY, "headline": NASTY, "tone": "plain", "provenance": "", "levels_title": "x"}
    values |= {"throughput": PageTable(["", "a"], [[NASTY, NASTY]]), "latency": PageTable([], [])}
    return render.page("loadtest/page.html", **values | changes)


def test_a_value_is_text_and_a_missing_one_is_an_error() -> None:
    page = load_page()
    assert "<img" not in page
    assert page.count("&lt;img src=x") == 5
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render.page("loadtest/page.html")


def test_the_policy_allows_the_style_of_the_page_and_nothing_else() -> None:
    page = load_page()
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert [one.replace("&#39;", "'") for one in policy] == [
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "url(" not in style
    assert "@import" not in style
    assert "style=" not in page, "the policy would not allow it"


def test_no_value_is_markdown() -> None:
    text = render.markdown(
        "trainer.report/page.md",
        **{name: "" for name in ("gate_metric", "human_sentence", "costs_basis", "checked", "question")},
        **{name: [] for name in ("warnings", "advice", "lineage", "examples")},
        **{
            name: PageTable([], [])
            for name in ("checks", "differences", "slices", "classes", "human", "costs", "files")
        },
        findings=PageTable([], []),
        title=f"one\n# {NASTY}",
        lead="",
        verdict={"words": NASTY, "sentence": ""},
        gate={"arm": None, "against": None, "cost_saving": None},
        arms=PageTable(["", "a|b"], [[NASTY, "1"]]),
        has_lost_run=False,
    )
    assert r"# one \# \<img src=x onerror=alert(1)\> \| \`\# \_x\_" in text
    assert "|  | a\\|b |\n| --- | ---: |\n| \\<img" in text
    assert "\n\n\n" not in text


def test_commands_start_without_the_template_engine() -> None:
    program = "import sys, turntable.cli, loadtest.cli, gateway.cli.costs; print('jinja2' in sys.modules)"
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert started.stdout.strip() == "False"
