"""The widgets without a browser: that they are built, what they check, and what they send."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace

import pytest

from twohalves import photo

gr = pytest.importorskip("gradio")

from sightline.app.widgets import Page, asset, theme  # noqa: E402
from sightline.cli import verbs  # noqa: E402

SETTINGS = (["cam"], None, None, "", "automatic", 0.2, "max", "minmax", "largest", "turbo")


@pytest.fixture
def page(offer):
    return Page(offer)


def visitor(name="me"):
    return SimpleNamespace(session_hash=name, client=SimpleNamespace(host="10.0.0.1"))


def sent(**data):
    return SimpleNamespace(_data=data)


def upload(page, who="me", *photos):
    files = [
        {"name": f"{i}.png", "data": base64.b64encode(one).decode()}
        for i, one in enumerate(photos or (photo(),))
    ]
    return page._photos(sent(files=files), visitor(who), *SETTINGS)


def test_a_photo_changes_pictures_classes_and_sheet(page):
    stage, top, wanted, sheet, point = upload(page)
    assert stage["photo"].startswith("data:image/jpeg")
    assert stage["size"] == [40, 20]
    assert [figure["title"] for figure in stage["figures"]] == ["cam"]
    assert top["choices"][0][0].startswith("ant ")
    assert (wanted["value"], sheet, point) == (None, [], "")
    assert len(upload(page, "me", photo(), photo())[3]) == 2


def test_the_threshold_sends_boxes_only(page):
    upload(page)
    settings = list(SETTINGS)
    settings[5] = 0.9
    found = page._boxes(visitor(), *settings)
    assert set(found) == {"boxes", "captions", "serial"}
    assert found["boxes"][0][0][2] < 0.6


def test_what_is_wrong_is_said_on_the_page(page):
    assert (
        "damaged" in upload(page, "me", b"GIF89a....")[0]["message"] or upload(page, "me", b"x")[0]["message"]
    )
    assert "did not arrive" in page._photos(sent(files=[{"name": "a"}]), visitor(), *SETTINGS)[0]["message"]
    assert "no photo" in page._photos(sent(), visitor(), *SETTINGS)[0]["message"]
    assert "demo photo" in page._example(sent(name="../../etc/passwd"), visitor(), *SETTINGS)[0]["message"]
    upload(page)
    for place, bad in ((0, ["rise"]), (1, 10**9), (4, "/etc"), (5, "high"), (7, "../"), (9, "jet")):
        settings = list(SETTINGS)
        settings[place] = bad
        stage = page._look(visitor(), *settings)[0]
        assert stage.get("message") or stage["figures"][0]["note"], bad


def test_two_visitors_share_nothing(page):
    upload(page, "one")
    assert page._look(visitor("two"), *SETTINGS) == [gr.skip()] * 3
    assert "open a photo first" in page._point(sent(x=1, y=1), visitor("two"), *SETTINGS)
    assert len(page.sessions) == 2
    page._forget(visitor("one"))
    assert page.sessions.of("one").photos == []


def test_a_point_is_answered_and_class_names_are_escaped(page):
    page.offer.model.categories = ("<b>ant</b>", *page.offer.model.categories[1:])
    upload(page)
    answer = page._point(sent(x=2, y=10), visitor(), *SETTINGS)
    assert "&lt;b&gt;ant&lt;/b&gt;" in answer
    assert "<b>" not in answer
    assert "role='status'" in answer


def test_photos_per_minute_are_limited(offer):
    page = Page(offer)
    page.rate.per_minute = 2
    upload(page, "me", photo(), photo())
    assert "too many photos" in upload(page)[0]["message"]


def test_the_pages_own_files_name_no_host_and_its_fonts_are_local():
    for name in ("app.css", "photo.js", "photo.html", "stage.js", "sheet.js", "file.js"):
        assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", asset(name)), name
    assert not getattr(theme(), "_stylesheets", [])
    assert "app" in verbs()
