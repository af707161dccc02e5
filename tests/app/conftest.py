"""A visitor of the app, with a network so small that a session takes milliseconds."""

from __future__ import annotations

import pytest

from sightline.app.choices import offered_methods
from sightline.app.limits import Limits
from sightline.app.session import Offer, Session
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from twohalves import NAMES, network, photo


@pytest.fixture
def offer():
    plain = Preprocess((16, 16), 16, (0.0,) * 3, (1.0,) * 3)
    model = LoadedModel(network(), "toy", NAMES, plain)
    return Offer(model, offered_methods(("gradcam", "cam", "cam:flip", "saliency")), Limits())


@pytest.fixture
def session(offer):
    session = Session(offer)
    session.open([("half.png", photo())])
    return session
