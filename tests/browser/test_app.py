"""The web app in a real browser, with the default model."""

from __future__ import annotations

import json
import time
import zipfile

import pytest
from PIL import Image

from chromium import wait_for
from sightline.demo_photos import photo_path

pytestmark = pytest.mark.browser

TOP = "[...document.querySelectorAll('#sl-top label')].map((one) => one.innerText.trim())"
CAPTION = "document.querySelector('.sl-figure figcaption')?.textContent || ''"
BOX = "JSON.stringify(document.querySelector('.sl-box')?.style.cssText || '')"


def opened(browser, app, **size):
    page = browser.page(**size)
    page.open(app)
    page.wait("!!document.querySelector('.sl-drop') && !!document.querySelector('#sl-methods input')", 60)
    return page


def upload(page, *paths):
    page.js("window.before = document.querySelector('.sl-photo')?.src || ''")
    page.choose_files(".sl-file", *paths)
    page.wait("(document.querySelector('.sl-photo')?.src || '') !== window.before", 60)
    page.wait("document.querySelector('.sl-heat')?.complete")


@pytest.fixture(scope="module")
def page(browser, app):
    page = opened(browser, app)
    upload(page, photo_path("chelsea"))
    return page


def test_a_photo_is_opened_and_its_class_is_read(page, shots):
    page.wait(f"{TOP}.length === 5")
    assert page.js(TOP)[0].startswith("Egyptian cat")
    assert page.js(CAPTION).startswith("Egyptian cat")
    if shots:
        page.screenshot(shots / "app-1440.png")


def test_another_class_is_chosen(page):
    page.js("document.querySelectorAll('#sl-top input')[1].click()")
    page.wait(f"({CAPTION}).startsWith('tiger cat')")
    page.js("document.querySelectorAll('#sl-top input')[0].click()")
    page.wait(f"({CAPTION}).startsWith('Egyptian cat')")


def test_the_box_follows_the_threshold(page):
    before = page.js(BOX)
    slider = "document.querySelector('#sl-threshold input[type=range]')"
    page.js(f"{slider}.value = 0.7; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    page.wait(f"({BOX}) !== {json.dumps(before)}")
    assert page.js("document.querySelectorAll('.sl-heat').length") == 1


def test_methods_stand_side_by_side(page, shots):
    page.js("document.querySelectorAll('#sl-methods input')[1].click()")
    page.wait("document.querySelectorAll('.sl-figure').length === 2")
    titles = page.js("[...document.querySelectorAll('.sl-title')].map((one) => one.textContent)")
    assert titles == ["gradcam", "cam"]
    if shots:
        page.screenshot(shots / "app-two-methods.png")


def test_a_point_is_asked_for_by_mouse_and_by_keyboard(page):
    page.js("document.querySelector('.sl-photo').click()")  # the middle of nothing: the corner of the page
    page.wait("!!document.querySelector('#sl-point table')")
    page.js("document.querySelector('.sl-frame').focus()")
    said = page.js("document.querySelector('#sl-point').textContent")
    page.press("ArrowRight")
    page.press("Enter")
    page.wait(f"document.querySelector('#sl-point').textContent !== {json.dumps(said)}")
    assert "if everything looked like this spot" in page.js("document.querySelector('#sl-point').textContent")


def test_opacity_and_blinking_need_no_server(page):
    page.js("document.querySelector('#sl-blink input').click()")
    page.wait("document.body.classList.contains('sl-blink')")
    page.js("document.querySelector('#sl-blink input').click()")
    slider = "document.querySelector('#sl-opacity input[type=range]')"
    page.js(f"{slider}.value = 0.9; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    page.wait("getComputedStyle(document.querySelector('.sl-heat')).opacity === '0.9'")


def test_files_are_downloaded(page, tmp_path):
    page.save_downloads(tmp_path)
    for kind, name in (
        ("png", "chelsea.png"),
        ("json", "chelsea.json"),
        ("coco", "coco.json"),
        ("yolo", "yolo.zip"),
    ):
        page.js(f"document.querySelector('#sl-save-{kind}').click()")
        wait_for((tmp_path / name).is_file, 20, name)
    with Image.open(tmp_path / "chelsea.png") as picture:
        assert picture.width > 2 * 451  # two methods beside each other
    assert json.loads((tmp_path / "chelsea.json").read_text())["results"][0]["category"] == "Egyptian cat"
    assert json.loads((tmp_path / "coco.json").read_text())["images"][0]["file_name"] == "chelsea.jpg"
    with zipfile.ZipFile(tmp_path / "yolo.zip") as archive:
        assert set(archive.namelist()) == {"data.yaml", "chelsea.txt"}


def test_several_photos_make_a_contact_sheet(page, shots):
    upload(page, photo_path("coffee"), photo_path("chelsea"), photo_path("rocket"))
    page.wait("document.querySelectorAll('.sl-tile').length === 3")
    rocket = page.js("document.querySelectorAll('.sl-tile')[2].innerText.trim()")
    assert not page.js(CAPTION).startswith(rocket)
    page.js("document.querySelectorAll('.sl-tile')[2].click()")
    page.wait(f"({CAPTION}).startsWith({json.dumps(rocket)})")
    if shots:
        page.screenshot(shots / "app-sheet.png")


def test_it_answers_within_half_a_second_and_fetches_nothing_elsewhere(page):
    started = time.monotonic()
    upload(page, photo_path("coffee"))
    seconds = time.monotonic() - started
    print(f"\nfrom the photo to its heatmap in the browser: {seconds:.2f} s")
    assert seconds < 3  # half a second on an idle machine
    hosts = {url.split("/")[2].split(":")[0] for url in page.requests if url.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}
    assert page.problems == []


def test_another_visitor_sees_nothing_of_it_on_a_phone(browser, app, shots):
    phone = opened(browser, app, width=390, height=844, scale=2, dark=True)
    assert phone.js("document.querySelectorAll('.sl-photo, .sl-tile').length") == 0
    phone.js("document.querySelector('[data-name=cat_and_coffee]').click()")
    phone.wait("!!document.querySelector('.sl-heat')", 60)
    assert phone.js("document.documentElement.scrollWidth") == 390
    small = phone.js(
        "[...document.querySelectorAll('.sl-button, .sl-downloads button')].filter((one) => one.offsetParent)"
        ".map((one) => one.getBoundingClientRect().height).filter((height) => height < 44).length"
    )
    assert small == 0  # large enough for a thumb
    unnamed = phone.js(
        "[...document.querySelectorAll('button, input, select, textarea')].filter((one) => one.offsetParent && "
        "!(one.innerText || one.ariaLabel || one.labels?.length || one.closest('label') || one.title || "
        "one.getAttribute('aria-labelledby'))).map((one) => one.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
    if shots:
        phone.resize(390, 2000)
        phone.screenshot(shots / "app-390-dark.png")


def test_a_photo_from_the_camera(browser, app):
    page = opened(browser, app)
    page.js("document.querySelector('[data-do=camera]').click()")
    page.wait("document.querySelector('.sl-camera video').videoWidth > 0")
    page.js("document.querySelector('[data-do=take]').click()")
    page.wait("!!document.querySelector('.sl-photo')", 60)
