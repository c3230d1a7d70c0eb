"""Makes the pictures of README.md from the project's own pages in a headless browser: `python docs/build_images.py`.

The documents beside the pictures are those of a run of `turntable demo`: a decision without its examples, and the
costs of that run.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gateway.costs.document import CostDocument  # noqa: E402
from gateway.costs.page import html_page as cost_page  # noqa: E402
from tests.browser import new_page, running_browser  # noqa: E402
from trainer.report.context import read_context  # noqa: E402
from trainer.report.page import html_page as decision_page  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDTH = 1280
_BELOW = 24


def pages() -> dict[str, str]:
    """Render the pages by the name of their picture."""
    costs = CostDocument.model_validate_json((IMAGES / "costs.json").read_bytes())
    decision = read_context(IMAGES / "decision.json", IMAGES, check=False)
    return {"verdict": decision_page(decision), "costs": cost_page(costs)}


def main() -> None:
    """Write a picture of each page, from its head to its first charts."""
    with running_browser() as browser, tempfile.TemporaryDirectory() as folder:
        for name, text in pages().items():
            file = Path(folder) / f"{name}.html"
            file.write_text(text, encoding="utf-8")
            with new_page(browser) as page:
                page.resize(WIDTH, 900)
                page.prefer("light")
                page.open(file.as_uri())
                bottom = page.evaluate("document.querySelector('.charts').getBoundingClientRect().bottom")
                picture = page.screenshot(WIDTH, round(bottom) + _BELOW)
            (IMAGES / f"{name}.png").write_bytes(picture)
            print(f"docs/images/{name}.png: {len(picture) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
