"""The page that runs the network itself: served as plain files, or opened from the disk; no network in either case."""

from __future__ import annotations

import http.server
import json
import threading
from functools import partial

import pytest
from PIL import Image

import sightline
from chromium import wait_for
from sightline.demo_photos import photo_path
from sightline.errors import InputError
from sightline.export.web import export_web, runtime_files

pytestmark = pytest.mark.browser

CAPTION = "document.getElementById('caption').textContent"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def model():
    return sightline.load_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    import os

    pytest.importorskip("onnxruntime")
    try:
        runtime = runtime_files(os.environ.get("ONNXRUNTIME_WEB"))
    except InputError as error:
        pytest.skip(str(error))
    made = tmp_path_factory.mktemp("page") / "page"
    given = next(iter(runtime.values())).parent
    described = export_web(model, made, runtime=given)
    assert described["bytes"] <= 10e6
    assert described["agreement"]["top1"] == described["agreement"]["photos"]
    assert min(described["agreement"]["correlation"].values()) > 0.999
    return made


@pytest.fixture(scope="module")
def page(browser, folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tab = browser.page()
        tab.open(f"http://127.0.0.1:{server.server_port}/")
        yield tab
        tab.open("about:blank")
        server.shutdown()
        thread.join(10)


def look(page, name):
    page.wait("document.body?.dataset?.ready", 60)
    assert page.js("document.body.dataset.ready") == "yes", page.js(
        "document.getElementById('about').textContent"
    )
    page.choose_files("#file", photo_path(name))
    page.wait(f"!document.getElementById('stage').hidden && shown.name.startsWith('{name}')", 60)


def test_a_photo_is_explained_as_by_the_library(page, model, shots):
    look(page, "chelsea")
    expected = sightline.explain(model, photo_path("chelsea"), method="cam", classes="top5")
    found = page.js("JSON.stringify([shown.classes, shown.scores, shown.box])")
    classes, scores, box = json.loads(found)
    assert classes[:3] == expected.classes[0, :3].tolist()
    assert scores == pytest.approx(
        expected.scores[0].tolist(), abs=0.01
    )  # two readers of one JPEG differ a little
    assert box == pytest.approx(expected.boxes()[0][0][0].tolist(), abs=6)
    print(f"\none pass in the browser: {page.js('document.body.dataset.milliseconds')} ms")
    if shots:
        page.screenshot(shots / "page-1440.png")


def test_it_says_not_sure_where_the_library_does(page, model):
    """Of the photo, and of any scores: below the model's value, not at it; never for a model without one."""
    said = page.js("document.getElementById('status').textContent")
    sure = sightline.explain(model, photo_path("chelsea"), method="cam").sure
    assert said == ("" if sure == [True] else "not sure: none of the 1,000 classes fits well")
    below = page.js("about.unsure.below")
    assert below == model.unsure_below > 0
    assert page.js(f"unsure([0.01, {below - 0.001}])") is True
    assert page.js(f"unsure([{below}, 0.01])") is False
    assert page.js("about.unsure.below = 0, unsure([0.001])") is False
    page.js("about.unsure.below = 1, look(shown.canvas, 'chelsea.png', ++drawn)")
    page.wait("document.getElementById('status').textContent.startsWith('not sure')", 60)
    page.js(f"about.unsure.below = {below}")


def test_class_method_and_threshold_change_heat_and_box(page):
    before = page.js(CAPTION)
    page.js("document.querySelectorAll('#classes input')[1].click()")
    assert page.js(CAPTION) != before
    page.js("document.querySelectorAll('#methods input')[1].click()")
    assert page.js("document.getElementById('threshold').value") == str(page.js("about.methods[1].threshold"))
    box = page.js("JSON.stringify(shown.box)")
    page.js(
        "const t = document.getElementById('threshold'); t.value = 0.8; t.dispatchEvent(new Event('input'))"
    )
    assert page.js("JSON.stringify(shown.box)") != box


def test_its_box_is_the_librarys(page):
    """The region of a hand-drawn map: a diagonal of two pixels beats one of one."""
    values = [0, 0, 0.9, 0, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0]
    values = [0.5, 0, 0, 1, 0, 0.5, 0, 0, 0, 0, 0, 0, 0.1, 0.1, 0.1, 0.1]
    assert page.js(f"largestBox({values}, 4, 4, 0.2)") == [0, 0, 0.5, 0.5]
    assert page.js(f"largestBox({values}, 4, 4, 0.1)") == [0, 0.75, 1, 1]
    assert page.js("largestBox([0, 0, 0, 0], 2, 2, 0)") is None


def test_the_picture_is_saved_and_nothing_leaves_the_page(page, tmp_path):
    page.save_downloads(tmp_path)
    page.js("document.getElementById('save').click()")
    wait_for((tmp_path / "chelsea.png").is_file, 20)
    with Image.open(tmp_path / "chelsea.png") as picture:
        assert picture.size == (451, 300)
    hosts = {url.split("/")[2].split(":")[0] for url in page.requests if url.startswith("http")}
    assert hosts == {"127.0.0.1"}
    assert page.problems == []


def test_it_opens_from_the_disk_on_a_phone(browser, folder, shots):
    phone = browser.page(390, 844, 2, dark=True)
    phone.open((folder / "index.html").as_uri())
    look(phone, "cat_and_coffee")
    assert "%" in phone.js(CAPTION)
    assert phone.js("document.documentElement.scrollWidth") == 390
    assert [url for url in phone.requests if url.startswith("http")] == []
    if shots:
        phone.resize(390, 1500)
        phone.screenshot(shots / "page-390-dark.png")


def test_a_photo_from_the_camera(page):
    page.js("document.getElementById('camera').click()")
    page.wait("document.querySelector('video').videoWidth > 0")
    page.js("document.getElementById('take').click()")
    page.wait("shown.name === 'camera.jpg'", 30)
