"""Take the pictures of a report that stand in `images/`: python docs/screenshots.py report.html (needs Chromium)."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).with_name("images")
SIZES = {390: 844, 1280: 900, 1920: 1080}
# What else is taken at 1280 pixels: the first element of this kind in the tab of the first diagnosed model.
PARTS = {
    "attacks": "[id$=-attacks]",
    "diagnosis": "figure:has([data-chart$=-heat])",
    "surface": ".relief",
    "images": "[id$=-images]",
}


def main(report: Path) -> None:
    """Write one picture per width and colour scheme, and one per part of the page."""
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for scheme in ("light", "dark"):
            for width, height in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                _open(page, report)
                _take(page, f"report-{width}-{scheme}")
                if width == 1280:
                    _parts(page, scheme)
                page.close()
        browser.close()


def _open(page: Page, report: Path) -> None:
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("html[data-charts=drawn]", state="attached")
    page.add_style_tag(content="html { scroll-behavior: auto !important }")


def _parts(page: Page, scheme: str) -> None:
    diagnosed = page.locator("[data-tab]:has(.relief)").first.get_attribute("data-tab")
    page.get_by_role("tab", name=diagnosed, exact=True).click()
    _take(page, f"report-model-{scheme}")
    for name, selector in PARTS.items():
        page.locator(f".tabbed:not(.away) :is({selector})").first.evaluate("part => part.scrollIntoView()")
        page.mouse.wheel(0, -80)
        page.wait_for_timeout(300)
        _take(page, f"report-{name}-{scheme}")


def _take(page: Page, name: str) -> None:
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
