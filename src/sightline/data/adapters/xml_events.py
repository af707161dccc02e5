"""XML read tag by tag within limits: no entity, no deep nesting, and messages with line numbers."""

from __future__ import annotations

from pathlib import Path
from xml.parsers import expat

from sightline.data.reading import at
from sightline.errors import InputError
from sightline.files import DEEPEST, MOST_XML_BYTES, read_bytes, reading


class XmlEvents:
    """A layout's reader overrides `begin` and `finish`; ``tags`` are the open tags, ``text`` is that since the last."""

    def __init__(self, path: Path) -> None:
        self.path, self.tags, self.text = path, list[str](), ""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.EntityDeclHandler = self._entity

    @property
    def line(self) -> int:
        """The line that is being read."""
        return self._parser.CurrentLineNumber

    def parse(self) -> None:
        """Read the file. Raises `InputError` naming the line of what is not well-formed."""
        content = read_bytes(self.path, MOST_XML_BYTES, "an XML file")
        with reading(self.path):
            try:
                self._parser.Parse(content, True)
            except expat.ExpatError as error:
                reason = expat.ErrorString(error.code)
                raise InputError(f"{at(self.path, error.lineno)}: not well-formed XML ({reason})") from None

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """A tag opens; it is the last of ``tags``."""

    def finish(self, tag: str) -> None:
        """A tag closes; it is still the last of ``tags``."""

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.tags) == DEEPEST:
            raise InputError(f"{at(self.path, self.line)}: nested more than {DEEPEST} levels deep")
        self.tags.append(tag)
        self.text = ""
        self.begin(tag, attributes)

    def _end(self, tag: str) -> None:
        self.finish(tag)
        self.tags.pop()
        self.text = ""

    def _data(self, text: str) -> None:
        self.text += text

    def _entity(self, *_: object) -> None:
        raise InputError(f"{self.path} declares an entity; expected plain XML")
