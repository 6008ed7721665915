"""The report in a real browser: quiet, offline, usable by keyboard, fast, and deaf to what it shows."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from unmask.report import summary_rows, to_csv, to_latex, write_report

ARTICLES = ("plain", "squeezed", "sharp", "noisy")


def shown(page, selector):
    return [element for element in page.locator(selector).all() if element.is_visible()]


def column(page, table, place):
    return page.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()


def saved(page, name):
    """Press the button of that name and return what is downloaded: its file name and its bytes."""
    with page.expect_download() as waited:
        page.get_by_role("button", name=name, exact=True).click()
    return waited.value.suggested_filename, Path(waited.value.path()).read_bytes()


def choose(page, bar, name, value):
    page.locator(f"[data-filters={bar}] select[name={name}]").select_option(value)


# ----------------------------------------------------------------------------------------------------- drawn and quiet


@pytest.mark.parametrize("which", ["single", "four"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn_in_both_colour_schemes(digits, opened, which, scheme):
    page = opened(getattr(digits, which), charts=True, color_scheme=scheme)
    places = page.locator("[data-chart]").count()
    assert places == page.locator("[data-chart] svg").count() > 10
    assert "could not be drawn" not in page.inner_text("body")
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", background)[:3])) > 384
    assert bright == (scheme == "light")


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_nothing_lies_beyond_the_right_edge(digits, opened, width):
    page = opened(digits.four, charts=True, viewport={"width": width, "height": 900})
    for place in range(len(ARTICLES) + 1):
        page.get_by_role("tab").nth(place).click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


def test_without_scripts_every_part_is_there(digits, opened):
    page = opened(digits.four, java_script_enabled=False)
    assert len(shown(page, "article")) == len(ARTICLES)
    assert shown(page, ".filters") == shown(page, ".tabs") == []


def test_on_paper_every_part_is_unfolded(digits, opened):
    page = opened(digits.four)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(shown(page, "article")) == len(ARTICLES)
    assert shown(page, ".tabs, .filters, .downloads, .numbers") == []
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


# ------------------------------------------------------------------------------------------------------- accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(digits, opened, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(digits.four, charts=True, color_scheme=scheme)
    for tab in (0, 1):
        page.get_by_role("tab").nth(tab).click()
        assert serious(axe, page) == []


def test_axe_finds_no_serious_violation_in_the_gallery(digits, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    assert serious(axe, opened(digits.four.with_name("four-images-1.html"))) == []


def serious(axe, page):
    found = axe.run(page).response["violations"]
    return [
        (violation["id"], node["html"][:200])
        for violation in found
        for node in violation["nodes"]
        if violation["impact"] in ("serious", "critical")
    ]


# ------------------------------------------------------------------------------------------------ tabs, tables, filters


def test_tabs_follow_mouse_keyboard_and_links(digits, opened):
    page = opened(digits.four)
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Comparison", *ARTICLES]

    def visible():
        return [panel.get_attribute("data-tab") for panel in shown(page, "[role=tabpanel]")]

    assert visible() == ["Comparison"]
    tabs.nth(2).click()
    assert visible() == ["squeezed"]
    for key, expected in (
        ("ArrowRight", "sharp"),
        ("End", "noisy"),
        ("ArrowRight", "Comparison"),
        ("ArrowLeft", "noisy"),
    ):
        page.keyboard.press(key)
        assert visible() == [expected]
        assert page.evaluate("document.activeElement.textContent") == expected
    page.keyboard.press("Home")
    page.locator("table a").get_by_text("sharp").click()
    assert visible() == ["sharp"]
    assert page.url.endswith("#run-3")


def test_a_link_to_a_model_opens_its_tab(digits, opened, tmp_path):
    class Linked(type(digits.four)):
        def as_uri(self):
            return f"{super().as_uri()}#run-2"

    page = opened(Linked(digits.four))
    assert page.locator("[aria-selected=true]").inner_text() == "squeezed"
    assert page.locator("#run-2").is_visible()


def test_a_press_on_a_column_sorts_and_a_third_one_restores(digits, opened):
    page = opened(digits.four)
    table = "[aria-label='Comparison table'] table"
    head = page.locator(f"{table} th").filter(has_text=re.compile("^Measured"))
    original = column(page, table, 1)
    measured = [float(text.rstrip("%")) for text in column(page, table, 5)]
    button = head.get_by_role("button")
    for order, expected in (("descending", sorted(measured, reverse=True)), ("ascending", sorted(measured))):
        button.focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        found = [float(text.rstrip("%")) for text in column(page, table, 5)]
        assert found == expected
    button.click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, table, 1) == original


def test_findings_are_filtered_by_status(digits, opened):
    page = opened(digits.single)
    statuses = page.locator("#run-1-found > li").evaluate_all("all => all.map(one => one.dataset.status)")
    chosen = statuses[-1]
    choose(page, "run-1-found", "status", chosen)
    assert len(shown(page, "#run-1-found > li")) == statuses.count(chosen)
    told = page.locator("[data-filters=run-1-found] output").inner_text()
    assert told == f"{statuses.count(chosen)} of {len(statuses)} shown"


def test_images_are_filtered_by_outcome_class_and_attack(digits, opened):
    page = opened(digits.four.with_name("single-images-1.html"))
    cards = page.locator(".card").evaluate_all("all => all.map(one => ({...one.dataset}))")
    assert {card["outcome"] for card in cards} == {"broken", "survived"}
    label = next(card["label"] for card in cards if card["outcome"] == "broken")
    choose(page, "images", "outcome", "broken")
    choose(page, "images", "label", label)
    expected = sum(card["outcome"] == "broken" and card["label"] == label for card in cards)
    assert 0 < len(shown(page, ".card")) == expected < len(cards)
    assert [heading.inner_text() for heading in shown(page, "h4")] == ["Broken"]
    choose(page, "images", "outcome", "")
    choose(page, "images", "label", "")
    assert len(shown(page, ".card")) == len(cards)


def test_the_gallery_is_walked_with_arrow_keys(digits, opened):
    page = opened(digits.four.with_name("single-images-1.html"))
    focused = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    last = page.locator(".card").count() - 1
    page.locator(".card").first.focus()
    across = page.evaluate(
        "[...document.querySelectorAll('.gallery')][0].querySelectorAll('.card').length && "
        "getComputedStyle(document.querySelector('.gallery')).gridTemplateColumns.split(' ').length"
    )
    for key, expected in (("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowDown", across), ("ArrowUp", 0), ("End", last)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected, key
    assert page.locator(".card[tabindex='0']").count() == 1


def test_more_images_are_a_click_away(digits, opened):
    page = opened(digits.single)
    page.get_by_role("link", name="More images").click()
    page.wait_for_url("**/single-images-1.html")
    assert page.get_by_role("heading", level=1).inner_text() == "Images of plain"


# ------------------------------------------------------------------------------------------------- charts and downloads


def test_tables_are_downloaded_as_shown(digits, opened):
    page = opened(digits.four)
    rows = summary_rows(digits.runs)
    assert saved(page, "Download summary as CSV") == ("summary.csv", to_csv(rows).encode())
    assert saved(page, "Download summary as LaTeX") == ("summary.tex", to_latex(rows).encode())
    page.get_by_role("tab", name="plain").click()
    name, content = saved(page, "Download plain attacks as CSV")
    assert name == "plain-attacks.csv"
    assert [row["attack"] for row in csv.DictReader(io.StringIO(content.decode()))] == column(
        page, "#run-1 .sortable", 1
    )


def test_charts_are_downloaded_with_their_colours(digits, opened):
    page = opened(digits.single, charts=True)
    name, content = saved(page, "Download plain Accuracy against cost as SVG")
    assert name == "plain-Accuracy-against-cost.svg"
    assert ET.fromstring(content).tag.endswith("svg")
    assert b"var(--" not in content
    assert b"#0072b2" in content
    name, content = saved(page, "Download plain heatmap as PNG")
    assert (name, content[:8]) == ("plain-heatmap.png", b"\x89PNG\r\n\x1a\n")
    assert len(content) > 5_000


def test_a_surface_is_turned_by_keys_and_by_dragging(digits, opened):
    page = opened(digits.single, charts=True)
    solid = page.locator(".relief canvas").first
    solid.scroll_into_view_if_needed()

    def picture():
        page.evaluate("() => new Promise(requestAnimationFrame)")
        return solid.evaluate("canvas => canvas.toDataURL()")

    before = picture()
    solid.focus()
    page.keyboard.press("ArrowRight")
    turned = picture()
    box = solid.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 90, steps=3)
    page.mouse.up()
    assert len({before, turned, picture()}) == 3


# ------------------------------------------------------------------------------------------------------- large, hostile


@pytest.mark.parametrize("name", ["report.html", "report-images-1.html"])
def test_ten_thousand_images_and_fifty_attacks_load_and_scroll_smoothly(large, opened, name):
    page = opened(large.with_name(name))
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 3_000
    if name == "report.html":
        page.wait_for_selector("html[data-charts=drawn]", state="attached")
        assert page.locator(".sortable tbody tr").count() == 51
    else:
        assert page.locator(".card").count() == 800
    page.evaluate(
        "window.long = [];"
        "new PerformanceObserver((list) => long.push(...list.getEntries().map((task) => task.duration)))"
        ".observe({ type: 'longtask' })"
    )
    height = page.evaluate("document.documentElement.scrollHeight")
    for _ in range(min(height, 12_000) // 600 + 1):
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(30)
    assert page.evaluate("scrollY") > min(height, 12_000) / 2
    assert max(page.evaluate("long"), default=0) < 200


def test_no_text_of_a_ledger_runs_as_a_script(hostile, opened, tmp_path):
    path = write_report([hostile, hostile], tmp_path / "report.html")
    page = opened(path, charts=True)
    assert page.locator("text='</script><script>alert(1)'").count() == 0
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in page.inner_text("#panel-all")
    assert page.locator("img[src=x], [onerror]").count() == 0
    for tab in page.get_by_role("tab").all():
        tab.click()
    for select in page.locator("select:visible").all():
        select.select_option(index=select.locator("option").count() - 1)
    for chart in page.locator("[data-chart] svg:visible").all():
        chart.hover(force=True)
    opened(path.with_name("report-images-1.html"))
