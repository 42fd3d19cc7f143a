"""The search page in a real browser: by mouse, keyboard and screen reader, with hostile names."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from search_gallery import CLASSES, create_gallery, create_search, encode, pixels
from servers import serve

from dcjax.pages import search_server

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="needs the browser Chromium")

# What a person does to drop or paste a file, which the browser's driver cannot do.
_GIVE = """([kind, content]) => {
  const bytes = Uint8Array.from(atob(content), (x) => x.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "mine.png", { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: data })
    : new DragEvent("drop", { ...options, dataTransfer: data });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(search_server.create(create_gallery(create_search()))) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page; what it logs, or asks of another host, fails the test."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page, problems = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("request", lambda request: _note_host(request.url, address, problems))
    yield page
    context.close()
    assert problems == []


def _note_host(url: str, address: str, problems: list[str]) -> None:
    if not url.startswith((address, "blob:", "data:")):
        problems.append(url)


def _settle(page: Any) -> None:
    page.wait_for_selector(".results[aria-busy=false]")


def _open(page: Any, path: str = "/") -> None:
    page.goto(path)
    _settle(page)


def _numbers(page: Any) -> list[int]:
    _settle(page)
    links = page.locator("#tiles a.tile").all()
    return [int(link.get_attribute("data-image")) for link in links]


def _nearest(query: int, k: int = 24, **options: Any) -> list[int]:
    return [neighbor.number for neighbor in create_search().like(query, k, **options)]


def test_clicks_search_on_and_the_back_button_goes_back(page: Any) -> None:
    _open(page)
    assert page.locator("#tiles li").count() == 24
    sample = _numbers(page)
    page.locator("#tiles a.tile").first.click()
    page.wait_for_url(f"**/?image={sample[0]}")
    assert _numbers(page) == _nearest(sample[0])
    assert page.evaluate("document.activeElement.id") == "heading"
    assert "The 24 nearest images" in page.locator("#announcement").text_content()
    page.locator("#tiles a.tile").nth(2).click()
    second = _nearest(sample[0])[2]
    page.wait_for_url(f"**/?image={second}")
    assert _numbers(page) == _nearest(second)
    page.go_back()
    page.wait_for_url(f"**/?image={sample[0]}")
    assert _numbers(page) == _nearest(sample[0])
    page.go_back()
    page.wait_for_url("**/")
    assert _numbers(page) == sample  # not another sample
    page.go_forward()
    assert _numbers(page) == _nearest(sample[0])


def test_results_name_their_folder_and_open_in_full_size(page: Any) -> None:
    _open(page, "/?image=8")
    tile = page.locator("#tiles li").first
    (number,) = _nearest(8, 1)
    link = tile.locator("a.full")
    assert link.get_attribute("href") == f"/images/{number}/full"
    assert link.get_attribute("target") == "_blank"
    assert page.request.get(f"/images/{number}/full").headers["content-type"] == "image/webp"
    assert not tile.locator(".same").is_visible()


def test_a_picture_of_the_gallery_itself_is_marked(page: Any) -> None:
    _open(page)
    page.evaluate(_GIVE, ["drop", base64.b64encode(encode(pixels()[8])).decode()])
    _settle(page)
    page.wait_for_selector("#tiles .same:visible")
    assert page.locator("#tiles .same:visible").count() == 1
    assert page.locator("#tiles a.tile").first.get_attribute("data-image") == "8"


def test_space_number_and_class_are_chosen_and_shared_by_the_address(page: Any) -> None:
    _open(page, "/?image=8")
    page.select_option("#space", "0")
    page.wait_for_url("**space=0**")
    assert _numbers(page) == _nearest(8, cluster=0)
    page.select_option("#k", "6")
    page.wait_for_url("**k=6**")
    assert _numbers(page) == _nearest(8, 6, cluster=0)
    # A part of a name that one class has is enough.
    page.fill("#class", "IMG SRC")
    page.press("#class", "Enter")
    page.wait_for_url("**class=**")
    expected = _nearest(8, 6, cluster=0, class_name=CLASSES[0])
    assert _numbers(page) == expected
    assert page.input_value("#class") == CLASSES[0]
    assert page.locator("#tiles .class").first.text_content() == CLASSES[0]

    _open(page, page.url)
    assert _numbers(page) == expected
    assert page.input_value("#space") == "0"
    page.fill("#class", "")
    page.wait_for_url(lambda url: "class=" not in url)
    assert _numbers(page) == _nearest(8, 6, cluster=0)
    page.fill("#class", "no class")
    page.press("#class", "Enter")
    page.wait_for_selector("#class[aria-invalid=true]")
    assert page.locator("#class-error").text_content() == "There is no such class."


def test_own_pictures_are_uploaded_pasted_and_dropped(page: Any, tmp_path: Path) -> None:
    expected = [11, *_nearest(11, 23)]
    (tmp_path / "mine.png").write_bytes(encode(pixels()[11]))
    content = base64.b64encode(encode(pixels()[11])).decode()
    _open(page)
    for way in ("upload", "paste", "drop"):
        _open(page)
        if way == "upload":
            page.set_input_files("#file", tmp_path / "mine.png")
        else:
            page.evaluate(_GIVE, [way, content])
        page.wait_for_url("**/?own=1")
        assert _numbers(page) == expected, way
        assert page.locator("#query-name").text_content() == "mine.png"
    page.select_option("#k", "6")
    page.wait_for_url("**own=1&k=6")
    assert _numbers(page) == expected[:6]
    page.locator("#tiles a.tile").nth(1).click()
    page.wait_for_url(f"**/?image={expected[1]}&k=6")
    page.go_back()
    assert _numbers(page) == expected[:6]
    page.reload()
    _settle(page)
    assert "choose it again" in page.locator("#notice").text_content()


def test_what_goes_wrong_is_said(browser: Any, address: str, tmp_path: Path) -> None:
    page = browser.new_page(base_url=address)  # the browser logs an answer that is an error
    _open(page)
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector("#notice:not([hidden])")
    assert "no picture that can be read" in page.locator("#notice").text_content()
    assert "no picture that can be read" in page.locator("#announcement").text_content()
    page.locator("#start").click()
    page.wait_for_url("**/")
    _settle(page)
    assert page.locator("#tiles li").count() == 24
    page.close()


def test_names_of_any_characters_are_text(page: Any) -> None:
    _open(page, "/?image=2&k=96")
    classes = page.locator("#tiles .class").all_text_contents()
    assert {name.replace("\udce9", "\\xe9") for name in CLASSES} == set(classes)
    assert page.locator("#tiles script, #tiles b, #tiles img[src=x]").count() == 0
    long = page.locator("#tiles .class", has_text="a" * 300).first
    assert long.bounding_box()["height"] < 60
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_reaches_everything_in_order(page: Any) -> None:
    _open(page, "/?image=2&k=6")
    seen = []
    for _ in range(19):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert seen == ["A", "A", "query-copy", "file", "start", "space", "k", "class", *["A"] * 11]
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/?image={_nearest(2, 6)[-1]}&k=6")
    assert _numbers(page) == _nearest(_nearest(2, 6)[-1], 6)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1600, "dark")])
def test_nothing_serious_is_found_for_screen_readers(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(
        base_url=address,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        bypass_csp=True,
    )
    page = context.new_page()
    for path in ("/", "/?image=2&space=0", "/?own=1", "/docs"):
        page.goto(path)
        if path != "/docs":
            _settle(page)
        found = axe.run(page).response["violations"]
        assert [x["id"] for x in found if x["impact"] in ("serious", "critical")] == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    context.close()
