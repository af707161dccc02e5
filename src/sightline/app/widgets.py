"""The page: Gradio's widgets, and how they call a visitor's `Session`."""

from __future__ import annotations

import base64
import binascii
import html
import itertools
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

import gradio as gr

from sightline.app.choices import COLOURS, SIDE_BY_SIDE, Choices, usual_threshold
from sightline.app.downloads import KINDS, download
from sightline.app.figures import boxes_of, caption, figures, photo_uri, tiles
from sightline.app.limits import RateLimit
from sightline.app.point import at_point
from sightline.app.session import Offer, Session, Sessions
from sightline.demo_photos import photo_path
from sightline.errors import InputError
from sightline.types import NORMALISATIONS, RELATIVE_TO, SELECTIONS, BoxRule

AUTOMATIC = "automatic"
USUAL = "the method's own"
_serial = itertools.count()  # the page redraws when its value changes, so no two may be equal


def asset(name: str) -> str:
    """The text of one of the page's own files."""
    return (files("sightline.app") / "assets" / name).read_text(encoding="utf-8")


def theme() -> Any:
    """Gradio's own look with the fonts that a machine has; a web font would be fetched from elsewhere."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=["ui-monospace", "SFMono-Regular", "monospace"],
    )


class Page:
    """What the widgets of one server do; `build` makes them."""

    def __init__(self, offer: Offer) -> None:
        self.offer, self.sessions = offer, Sessions(offer)
        self.rate = RateLimit(offer.limits.photos_per_minute)

    def build(self) -> Any:
        """The page that Gradio serves."""
        with gr.Blocks(title="sightline", analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML(_heading(self.offer))
            with gr.Row(elem_classes="sl-layout"):
                with gr.Column(scale=1, min_width=290):
                    self._controls()
                with gr.Column(scale=3, min_width=300):
                    self._pictures()
            self._connect()
            blocks.unload(self._forget)
        return blocks

    def _controls(self) -> None:
        offer, text = self.offer, self.offer.embeds_text
        names = [(offer.category(i), i) for i in range(offer.classes)]
        methods = list(offer.methods)
        with gr.Group():
            self.text = gr.Textbox(
                label="What to look for", placeholder="a photo of a dog", visible=text, submit_btn="Look"
            )
            self.top = gr.Radio([], label="Class: the five most probable", visible=not text, elem_id="sl-top")
            self.wanted = gr.Dropdown(
                names,
                value=None,
                label="Class: search",
                filterable=True,
                visible=not text,
                elem_id="sl-search",
            )
            self.against = gr.Dropdown(
                names, value=None, label="Compare with another class", filterable=True, visible=not text
            )
        self.methods = gr.CheckboxGroup(
            methods,
            value=methods[:1],
            label=f"Methods, up to {SIDE_BY_SIDE} side by side",
            elem_id="sl-methods",
        )
        self.threshold = gr.Slider(
            0, 1, value=0.2, step=0.01, label="Box threshold, share of the maximum", elem_id="sl-threshold"
        )
        self.opacity = gr.Slider(
            0, 1, value=0.55, step=0.05, label="Opacity of the heat", elem_id="sl-opacity"
        )
        self.blink = gr.Checkbox(label="Blink between photo and heat", elem_id="sl-blink")
        with gr.Accordion("Colours, layer, box rule", open=False):
            self.colormap = gr.Radio(list(COLOURS), value="turbo", label="Colours", elem_id="sl-colours")
            self.layer = gr.Dropdown(
                [AUTOMATIC, *offer.layers], value=AUTOMATIC, label="Layer", filterable=True
            )
            self.select = gr.Radio(list(SELECTIONS), value="largest", label="Regions that get a box")
            self.relative_to = gr.Radio(
                list(RELATIVE_TO), value="max", label="The threshold is a share of the"
            )
            self.normalise = gr.Radio([USUAL, *NORMALISATIONS], value=USUAL, label="Normalisation")

    def _pictures(self) -> None:
        limits = self.offer.limits
        self.photo = gr.HTML(
            value="",
            html_template=asset("photo.html"),
            js_on_load=asset("photo.js"),
            elem_id="sl-photo",
            max_bytes=limits.megabytes * 1e6,
            max_photos=limits.photos,
        )
        self.stage = gr.HTML(
            value={},
            html_template='<div class="sl-board"></div>',
            js_on_load=asset("stage.js"),
            elem_id="sl-stage",
        )
        self.boxes = gr.HTML(
            value={},
            html_template="<span></span>",
            js_on_load="watch('value', () => window.sightlineBoxes(props.value || {}));",
            elem_classes="sl-hidden",
        )
        self.point = gr.HTML(value="", elem_id="sl-point", elem_classes="sl-point", js_on_load=None)
        self.sheet = gr.HTML(
            value=[],
            html_template='<div class="sl-tiles" role="group" aria-label="Contact sheet"></div>',
            js_on_load=asset("sheet.js"),
            elem_id="sl-sheet",
        )
        gr.HTML("<p>Save the picture, the numbers, or the boxes</p>", elem_id="sl-save")
        with gr.Row(elem_classes="sl-downloads"):
            self.buttons = {
                kind: gr.Button(kind.upper(), size="sm", elem_id=f"sl-save-{kind}") for kind in KINDS
            }
        self.file = gr.HTML(
            value={}, html_template="<span></span>", js_on_load=asset("file.js"), elem_classes="sl-hidden"
        )

    @property
    def choices(self) -> list[Any]:
        """The widgets that `_choices` reads, in its order."""
        return [
            self.methods, self.wanted, self.against, self.text, self.layer, self.threshold, self.relative_to,
            self.normalise, self.select, self.colormap,
        ]  # fmt: skip

    def _connect(self) -> None:
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        slow = {**quiet, "concurrency_limit": 1, "concurrency_id": "look"}
        arrival = {
            "inputs": self.choices,
            "outputs": [self.stage, self.top, self.wanted, self.sheet, self.point],
        }
        self.photo.photo(self._photos, **arrival, **slow)
        self.photo.example(self._example, **arrival, **slow)
        self.sheet.pick(self._pick, inputs=self.choices, outputs=arrival["outputs"], **slow)
        drawn = {"inputs": self.choices, "outputs": [self.stage, self.top, self.point]}
        self.top.input(
            self._look_at,
            inputs=[self.top, *self.choices],
            outputs=[self.stage, self.wanted, self.point],
            **slow,
        )
        for widget in (self.wanted, self.against, self.layer, self.colormap, self.normalise):
            widget.input(self._look, **drawn, **slow)
        self.text.submit(self._look, **drawn, **slow)
        self.methods.input(
            self._compare, inputs=self.choices, outputs=[*drawn["outputs"], self.threshold], **slow
        )
        rules = {"inputs": self.choices, "outputs": self.boxes, "trigger_mode": "always_last"}
        for widget in (self.threshold, self.select, self.relative_to):
            widget.input(self._boxes, **rules, **quiet, concurrency_limit=4)
        self.stage.point(self._point, inputs=self.choices, outputs=self.point, **slow)
        for kind, button in self.buttons.items():
            button.click(self._downloader(kind), inputs=self.choices, outputs=self.file, **slow)
        style = "(v) => { document.querySelector('.gradio-container').style.setProperty('--heat', v); }"
        self.opacity.input(None, self.opacity, None, js=style)
        self.blink.input(
            None, self.blink, None, js="(on) => { document.body.classList.toggle('sl-blink', on); }"
        )

    # ------------------------------------------------------------------------------------------ what they do

    def _photos(self, event: gr.EventData, request: gr.Request, *values: Any) -> list[Any]:
        sent = getattr(event, "_data", None) or {}
        return self._opened(_decoded(sent.get("files")), values, request)

    def _example(self, event: gr.EventData, request: gr.Request, *values: Any) -> list[Any]:
        def one() -> Iterable[tuple[str, bytes]]:
            path = photo_path(str((getattr(event, "_data", None) or {}).get("name")))
            yield path.name, path.read_bytes()

        return self._opened(one(), values, request)

    def _opened(
        self, given: Iterable[tuple[str, bytes]], values: tuple[Any, ...], request: gr.Request
    ) -> list[Any]:
        try:
            sent = list(given)
            if not self.rate.allows(_address(request), max(1, len(sent))):
                raise InputError("too many photos in one minute; wait a little")
            session = self.sessions.of(request.session_hash)
            problems = session.open(sent)
        except InputError as error:
            return [_message(str(error)), *[gr.skip()] * 4]
        return self._arrived(session, values, "; ".join(problems))

    def _pick(self, event: gr.EventData, request: gr.Request, *values: Any) -> list[Any]:
        session = self.sessions.of(request.session_hash)
        try:
            session.select(int((getattr(event, "_data", None) or {}).get("number", -1)))
        except (InputError, TypeError, ValueError):
            return [gr.skip()] * 5
        return [*self._arrived(session, values, "", sheet=False)]

    def _arrived(
        self, session: Session, values: tuple[Any, ...], problems: str, sheet: bool = True
    ) -> list[Any]:
        """What a new photo changes: the pictures, the five classes, no class searched for, the sheet."""
        choices = _choices((values[0], None, *values[2:]))
        try:
            stage = _stage(session, choices, problems, photo=True)
            shown = tiles(session, choices) if len(session.photos) > 1 else []
        except InputError as error:
            return [{**_stage_photo(session), **_message(str(error))}, *[gr.skip()] * 4]
        return [stage, _top(session, None), gr.update(value=None), shown if sheet else gr.skip(), ""]

    def _look(self, request: gr.Request, *values: Any) -> list[Any]:
        session = self.sessions.of(request.session_hash)
        if not session.photos:
            return [gr.skip()] * 3
        try:
            choices = _choices(values)
            return [_stage(session, choices, ""), _top(session, choices.class_index), gr.skip()]
        except InputError as error:
            return [_message(str(error)), gr.skip(), gr.skip()]

    def _look_at(self, request: gr.Request, index: int, *values: Any) -> list[Any]:
        """One of the five classes: in the same answer it becomes the class searched for."""
        stage, _, point = self._look(request, values[0], index, *values[2:])
        return [stage, gr.update(value=index), point]

    def _compare(self, request: gr.Request, *values: Any) -> list[Any]:
        """Other methods, at the usual threshold of the first."""
        usual = self._usual_threshold(values[0])
        if usual is None:
            return [*self._look(request, *values), gr.skip()]
        return [*self._look(request, *values[:5], usual, *values[6:]), gr.update(value=usual)]

    def _boxes(self, request: gr.Request, *values: Any) -> Any:
        session = self.sessions.of(request.session_hash)
        try:
            choices = _choices(values)
            boxes = [boxes_of(session, method, choices) for method in choices.methods]
            captions = [caption(session, method, choices) for method in choices.methods]
        except InputError:
            return gr.skip()
        return {"boxes": boxes, "captions": captions, "serial": next(_serial)}

    def _usual_threshold(self, methods: list[str]) -> float | None:
        known = [self.offer.methods[name] for name in methods or () if name in self.offer.methods]
        return usual_threshold(known[0]) if known else None

    def _point(self, event: gr.EventData, request: gr.Request, *values: Any) -> str:
        sent = getattr(event, "_data", None) or {}
        try:
            x, y = float(sent.get("x", -1)), float(sent.get("y", -1))
            found = at_point(self.sessions.of(request.session_hash), x, y, _choices(values))
        except (InputError, TypeError, ValueError) as error:
            return f"<p role='status'>{html.escape(str(error))}</p>"
        rows = "".join(
            f"<tr><td>{html.escape(one.category)}</td><td>{100 * one.share:.1f} %</td>"
            f"<td class='sl-bar' aria-hidden='true'><i style='width:{100 * one.share:.1f}%'></i></td></tr>"
            for one in found.classes
        )
        where = f"At {found.x:.0f}, {found.y:.0f}: {html.escape(found.meaning)}"
        return f"<div role='status'><p>{where}</p><table>{rows}</table></div>"

    def _downloader(self, kind: str) -> Callable[..., Any]:
        def save(request: gr.Request, *values: Any) -> Any:
            try:
                made = download(self.sessions.of(request.session_hash), _choices(values), kind)
            except InputError as error:
                gr.Info(str(error))
                return gr.skip()
            data = base64.b64encode(made.data).decode()
            return {"name": made.name, "media": made.media, "data": data, "serial": next(_serial)}

        return save

    def _forget(self, request: gr.Request) -> None:
        self.sessions.close(request.session_hash)


def _choices(values: tuple[Any, ...]) -> Choices:
    """The widgets' values, checked again: a visitor can send anything."""
    methods, wanted, against, text, layer, threshold, relative_to, normalise, select, colormap = values
    try:
        rule = BoxRule(
            float(threshold),
            relative_to=str(relative_to),
            normalise=None if normalise == USUAL else str(normalise),
            select=str(select),
        )
        return Choices(
            tuple(str(name) for name in methods or ()),
            None if wanted is None else int(wanted),
            None if against is None else int(against),
            str(text or ""),
            None if layer in (None, AUTOMATIC) else str(layer),
            rule,
            str(colormap),
        )
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def _decoded(sent: Any) -> Iterable[tuple[str, bytes]]:
    if not isinstance(sent, list):
        raise InputError("no photo was sent")
    for one in sent:
        try:
            yield str(one["name"]), base64.b64decode(one["data"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise InputError("a photo did not arrive whole; try again") from None


def _stage(session: Session, choices: Choices, message: str, photo: bool = False) -> dict[str, Any]:
    drawn = [figure.as_dict() for figure in figures(session, choices)]
    if session.unsure and not message:
        message = "No class fits well: the photo may show none of those that the network knows."
    return {"figures": drawn, **_message(message), **(_stage_photo(session) if photo else {})}


def _stage_photo(session: Session) -> dict[str, Any]:
    image = session.photo.image
    return {"photo": photo_uri(image), "size": [image.width, image.height]}


def _message(text: str) -> dict[str, Any]:
    return {"message": text, "serial": next(_serial)}


def _top(session: Session, chosen: int | None) -> Any:
    top, rule = session.top(), session.score_rule
    if not top or rule is None:
        return gr.skip()
    texts = [rule.text(score).replace(" %", "\u00a0%") for _, score in top]  # never broken before its sign
    choices = [
        (f"{session.offer.category(index)}  {text}", index)
        for text, (index, _) in zip(texts, top, strict=True)
    ]
    known = [index for index, _ in top]
    value = known[0] if chosen is None else chosen if chosen in known else None
    return gr.update(choices=choices, value=value)


def _address(request: gr.Request) -> str:
    client = getattr(request, "client", None)
    return str(getattr(client, "host", ""))


def _heading(offer: Offer) -> str:
    known = "compares a photo with a text" if offer.embeds_text else f"{offer.classes:,} classes"
    return (
        "<header class='sl-head'><h1>sightline</h1>"
        f"<p>Where does the network look? {html.escape(offer.model.name)}, {known}</p></header>"
    )
