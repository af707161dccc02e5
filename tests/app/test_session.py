"""One visitor's state, without a browser."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sightline.app.choices import METHODS, Choices, offered_methods
from sightline.app.downloads import download
from sightline.app.figures import boxes_of, figures, photo_uri, tiles
from sightline.app.limits import Limits, RateLimit
from sightline.app.point import at_point
from sightline.app.session import Offer, Session, Sessions
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.types import BoxRule
from twohalves import NAMES, photo


def test_a_photo_is_explained_and_its_best_classes_are_listed(session):
    top = session.top(3)
    assert [NAMES[index] for index, _ in top] == ["ant", "cat", "dog"]
    assert top == sorted(top, key=lambda one: -one[1])
    (figure,) = figures(session, Choices(("cam",)))
    assert figure.title == "cam"
    assert figure.caption.startswith("ant ")
    assert figure.heat.startswith("data:image/webp;base64,")
    assert figure.boxes == [[0, 0, pytest.approx(0.56, abs=0.07), 1]]


def test_the_box_follows_the_threshold_without_another_map(session):
    boxes_of(session, "cam", Choices(("cam",), class_index=0))
    before = session.computed
    wide = boxes_of(session, "cam", Choices(("cam",), class_index=0, rule=BoxRule(0.01)))
    narrow = boxes_of(session, "cam", Choices(("cam",), class_index=0, rule=BoxRule(0.9)))
    figures(session, Choices(("cam",), class_index=0, rule=BoxRule(0.5, select="all"), colormap="cividis"))
    assert session.computed == before
    assert wide[0][2] > narrow[0][2]


def test_classes_layers_and_methods_are_those_that_are_offered(session):
    assert figures(session, Choices(("cam",), class_index=2))[0].caption.startswith("cat ")
    assert session.explained("gradcam", Choices(layer="0")).layers == ["0"]
    for wrong in ({"layer": "../weights"}, {"class_index": 99}):
        assert "expected" in figures(session, Choices(("cam",), **wrong))[0].note or wrong.get("layer")
        with pytest.raises(InputError):
            session.explained("gradcam", Choices(**wrong))
    with pytest.raises(InputError, match="unknown method 'rise'"):
        session.explained("rise", Choices())
    with pytest.raises(InputError, match="at most 4"):
        Choices(("cam",) * 5)
    assert set(offered_methods()) == set(METHODS)


def test_a_figure_without_heat_says_why(session):
    (figure,) = figures(session, Choices(("gradcam",), class_index=1))  # nothing is green
    assert (figure.heat, figure.boxes) == ("", [])
    assert "no positive evidence" in figure.note
    (pixels,) = figures(session, Choices(("saliency",)))
    assert pixels.boxes == []
    assert "no box" in pixels.caption


def test_the_difference_of_two_classes_is_a_figure_of_its_own(session):
    one, apart = figures(session, Choices(("cam",), class_index=0, against=2))
    assert apart.title == "ant against cat"
    assert apart.heat != one.heat
    assert apart.legend == ("cat", "ant")


def test_a_point_says_which_classes_look_there(session):
    left, right = at_point(session, 2, 10, Choices()), at_point(session, 37, 10, Choices())
    assert left.classes[0].category == "ant"
    assert right.classes[0].category == "cat"
    # If the whole photo were like this point, the class's score: the softmax of W x + b for pure red.
    red = (4 * torch.eye(3)[torch.arange(7) % 3] - 0.1 * torch.arange(7)[:, None])[:, 0]
    assert left.classes[0].share == pytest.approx(float(red.softmax(0)[0]), abs=1e-4)
    with pytest.raises(InputError, match="outside the photo"):
        at_point(session, 40, 10, Choices())


def test_a_point_without_class_maps_compares_the_heat_of_the_best_classes():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 4, stride=4), nn.Flatten(), nn.Linear(64, 5)
    )
    model = LoadedModel(net, "flat", None, Preprocess((16, 16), 16, (0.0,) * 3, (1.0,) * 3))
    offer = Offer(model, offered_methods(("gradcam",)))
    session = Session(offer)
    session.open([("a.png", photo())])
    found = at_point(session, 3, 3, Choices(layer="1"))
    assert "most probable classes" in found.meaning
    assert all(0 <= one.share <= 1 for one in found.classes)
    assert found.classes[0].category.startswith("class ")


def test_several_photos_make_a_contact_sheet(session):
    session.open([("a.png", photo()), ("b.jpg", photo(left="blue", kind="jpeg")), ("c.png", photo(20, 40))])
    sheet = tiles(session, Choices(("cam",)))
    assert [tile["name"] for tile in sheet] == ["a.png", "b.jpg", "c.png"]
    assert [tile["label"] for tile in sheet] == ["ant", "cat", "ant"]
    session.select(1)
    assert session.top(1)[0][0] == 2
    with pytest.raises(InputError, match="photo 4; there are 3"):
        session.select(3)


def test_what_cannot_be_read_is_left_out_and_named(session):
    problems = session.open([("no.png", b"not a photo"), ("../../etc/yes.png", photo())])
    assert len(problems) == 1
    assert "no.png" in problems[0]
    assert [one.name for one in session.photos] == ["yes.png"]
    with pytest.raises(InputError, match=r"x\.gif"):
        session.open([("x.gif", b"")])
    assert [one.name for one in session.photos] == ["yes.png"]


def test_uploads_are_limited_in_size_number_and_pixels(offer):
    offer.limits = Limits(megabytes=0.001, megapixels=0.001, photos=2)
    session = Session(offer)
    with pytest.raises(InputError, match="at most 2 at a time"):
        session.open([("a.png", photo())] * 3)
    with pytest.raises(InputError, match=r"at most 0\.001 MB"):
        session.open([("a.png", b"0" * 2000)])
    with pytest.raises(InputError, match="more than the limit"):
        session.open([("a.png", photo(60, 60))])
    assert (
        len(session.open([("a.png", photo(30, 20)), ("b.png", photo(30, 20))])) == 1
    )  # the second has no room


def test_the_rate_is_limited_for_each_address():
    now = [0.0]
    limit = RateLimit(3, clock=lambda: now[0])
    assert [limit.allows("a", 2), limit.allows("a", 2), limit.allows("b"), limit.allows("a")] == [
        True, False, True, True,
    ]  # fmt: skip
    now[0] = 60.0
    assert limit.allows("a", 3)


def test_visitors_have_their_own_photos_and_are_forgotten(offer):
    now = [0.0]
    offer.limits = Limits(visitors=2, idle_minutes=1)
    sessions = Sessions(offer, clock=lambda: now[0])
    one, two = sessions.of("one"), sessions.of("two")
    one.open([("mine.png", photo())])
    assert two.photos == []
    assert sessions.of("one") is one
    sessions.close("one")
    assert one.photos == []
    assert sessions.of("one") is not one
    sessions.of("three")  # the one who has been away the longest gives way
    assert len(sessions) == 2
    kept = sessions.of("three")
    kept.open([("mine.png", photo())])
    now[0] = 61.0
    sessions.drop_idle()
    assert len(sessions) == 0
    assert kept.photos == []
    with pytest.raises(InputError, match="no session"):
        sessions.of(None)


def test_photos_are_shown_no_larger_than_needed(session):
    session.open([("wide.jpg", photo(3000, 1000, kind="jpeg"))])
    assert len(photo_uri(session.photo.image)) < 40_000
    assert session.photo.image.size == (3000, 1000)  # boxes are in its own pixels


class Clip(nn.Module):
    """Embeds a photo as its mean colour, and a text as the colour it names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3).view(3, 3, 1, 1)

    def encode_image(self, images):
        return self.conv(images).relu().mean((2, 3))

    def encode_text(self, tokens):
        return torch.eye(3)[tokens]

    def forward(self, images):
        return self.encode_image(images)

    def tokenizer(self, texts):
        return torch.tensor([["red", "green", "blue"].index(text) for text in texts])


def test_a_network_that_embeds_is_asked_by_a_text():
    model = LoadedModel(Clip(), "clip", None, Preprocess((16, 16), 16, (0.0,) * 3, (1.0,) * 3))
    offer = Offer(model, offered_methods(("gradcam",)))
    assert offer.embeds_text
    session = Session(offer)
    session.open([("a.png", photo())])
    assert session.top() == []
    assert "write what to look for" in figures(session, Choices())[0].note
    red, blue = (
        boxes_of(session, "gradcam", Choices(text=text, layer="conv"))[0] for text in ("red", "blue")
    )
    assert red[0] < blue[0]
    choices = Choices(text="blue", layer="conv")
    coco = json.loads(download(session, choices, "coco").data)
    assert [one["name"] for one in coco["categories"]] == ["blue"]
    assert coco["annotations"][0]["bbox"][0] == pytest.approx(40 * blue[0], abs=0.01)
    with pytest.raises(InputError, match="no classes"):
        at_point(session, 1, 1, Choices())
