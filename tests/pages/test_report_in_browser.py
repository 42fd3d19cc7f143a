"""The report in a browser: nothing is loaded, everything is reached, read and sorted."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_content

from dcjax.pages import report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")

_CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="needs chromium on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        # As root, Chromium has no sandbox.
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Returns the address of each page: of a run with hostile names, of a comparison."""
    images = report_content.digit_images(120)
    small = {"num_queries": 1, "num_clusters": 2, "num_class_rows": 10, "num_on_map": 30}
    hostile = report_content.named(images, report_content.HOSTILE_NAMES)
    pages = {
        "report": report.render(report_content.create_report(images, num_on_map=60)),
        "hostile": report.render(report_content.create_report(hostile, **small)),
        "comparison": report.render_comparison(
            report_content.create_comparison(hostile, report_content.HOSTILE_NAMES[:3])
        ),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: Path(folder, f"{name}.html").as_uri() for name in pages}


@contextlib.contextmanager
def _open(
    browser: playwright.Browser,
    address: str,
    *,
    width: int = 1600,
    scheme: str = "light",
    scripts: bool = True,
) -> Iterator[playwright.Page]:
    """Opens a page, and checks at the end that it made no request and no error."""
    wrong: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        java_script_enabled=scripts,
    )
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:")) or wrong.append(f"requests {request.url}")
        ),
    )
    page.goto(address)
    yield page
    context.close()
    assert not wrong


@pytest.mark.parametrize("name", ["hostile", "comparison"])
def test_screen_readers_and_phones_get_all_of_the_page(
    name: str, browser: playwright.Browser, addresses: dict[str, str]
) -> None:
    for width in (360, 1600):
        for scheme in ("light", "dark"):
            with _open(browser, addresses[name], width=width, scheme=scheme) as page:
                assert page.evaluate("document.documentElement.scrollWidth") == width
                found = axe.Axe().run(page).response["violations"]
                serious = [x for x in found if x["impact"] in ("serious", "critical")]
                assert not serious, [(x["id"], x["nodes"][0]["html"]) for x in serious]


def test_tables_are_sorted_by_keyboard(
    browser: playwright.Browser, addresses: dict[str, str]
) -> None:
    with _open(browser, addresses["report"]) as page:
        table = page.get_by_role("table", name="Classes by recall")
        heading = table.get_by_role("columnheader", name="Recall@1")
        recalls = table.locator("tbody tr td:nth-child(3)")
        shown = [float(text) for text in recalls.all_inner_texts()]
        assert shown == sorted(shown)
        heading.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == "descending"
        assert [float(x) for x in recalls.all_inner_texts()] == sorted(shown, reverse=True)
        page.keyboard.press("Space")
        assert heading.get_attribute("aria-sort") == "ascending"
        assert [float(x) for x in recalls.all_inner_texts()] == shown
        # Texts are in the order of the alphabet, or its reverse; empty cells stay last.
        button = table.get_by_role("columnheader", name="Confused with").get_by_role("button")
        for is_reversed in (False, True):
            button.click()
            confused = table.locator("tbody tr td:nth-child(4)").all_inner_texts()
            named = sorted(filter(None, confused), reverse=is_reversed)
            assert confused == named + [""] * (len(confused) - len(named))
            assert len(named) < len(confused)
        assert heading.get_attribute("aria-sort") is None


def test_the_map_is_read_by_arrow_keys_and_pointer(
    browser: playwright.Browser, addresses: dict[str, str]
) -> None:
    content = report_content.create_report(report_content.digit_images(120), num_on_map=60).map
    with _open(browser, addresses["report"]) as page:
        view = page.get_by_role("application", name="Map of images")
        card = view.locator(".card")
        view.focus()
        assert not card.is_visible()
        page.keyboard.press("Home")
        ring = view.locator("figure:not([hidden]) .ring")
        xs = [_x(ring)]
        assert card.is_visible()
        assert card.locator("img").get_attribute("src").startswith("data:image/webp;base64,")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
            xs.append(_x(ring))
        assert xs == sorted(set(xs))
        name = card.locator("bdi").nth(1).inner_text()
        (image,) = [image for image in content.images if image.name == name]
        assert page.locator("#announcement").inner_text() == f"Class {image.class_name}, {name}"
        page.keyboard.press("Escape")
        assert not card.is_visible()
        # The same image is elsewhere in the other projection.
        page.get_by_role("button", name="t-SNE").click()
        assert page.get_by_role("button", name="t-SNE").get_attribute("aria-pressed") == "true"
        drawings = [page.locator(".projection svg").nth(i) for i in range(2)]
        assert [drawing.is_visible() for drawing in drawings] == [False, True]
        point = drawings[1].locator("path").first
        box = point.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert card.is_visible()


def test_everything_is_there_without_scripts(
    browser: playwright.Browser, addresses: dict[str, str]
) -> None:
    with _open(browser, addresses["report"], scripts=False) as page:
        assert [page.locator(".projection svg").nth(i).is_visible() for i in range(2)] == [True] * 2
        assert page.locator("svg title").count() == 2 * 60
        assert not page.locator(".copy").first.is_visible()
        for heading in page.locator("h2, h3").all():
            assert heading.is_visible()
        page.locator("summary").last.click()
        assert page.get_by_text("loss.option_39").is_visible()


def test_names_are_copied(browser: playwright.Browser, addresses: dict[str, str]) -> None:
    with _open(browser, addresses["hostile"]) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        button = page.locator(".file .copy").first
        button.click()
        page.wait_for_function("document.getElementById('announcement').textContent === 'Copied'")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == button.get_attribute("data-copy")
        assert copied in report_content.HOSTILE_NAMES


def _x(ring: playwright.Locator) -> float:
    """Returns how far from the left a ring is drawn."""
    return float(ring.evaluate("element => element.transform.baseVal[0].matrix.e"))


def test_what_is_folded_is_printed(browser: playwright.Browser, addresses: dict[str, str]) -> None:
    with _open(browser, addresses["report"]) as page:
        settings = page.locator("details table")
        heights = "tables => tables.map(table => table.getBoundingClientRect().height)"
        assert not any(settings.nth(i).is_visible() for i in range(settings.count()))
        page.emulate_media(media="print")
        assert all(settings.nth(i).is_visible() for i in range(settings.count()))
        assert min(settings.evaluate_all(heights)) > 0
