"""XMP packets: parsed by an XML parser, edited as bytes, so that everything else in a packet stays as it was.

Properties are found by namespace and name, whatever prefix a packet uses, and in each form that RDF allows: attributes,
elements, and structures of either. Document types are refused, so no entity is ever expanded and nothing is fetched.
XMP specification part 1, section 7 (serialization in RDF). Opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias
from xml.parsers import expat

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MOST_ELEMENTS, _DEEPEST = 200_000, 200
_START_TAG = re.compile(rb"<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*(/?)>")
_ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_BYTE_ORDER_MARKS = ((b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"), (b"\xff\xfe", "utf-16-le"),
                     (b"\xfe\xff", "utf-16-be"))  # fmt: skip


class XmpError(ValueError):
    """A packet cannot be parsed; the message says why."""


class Name(NamedTuple):
    """Namespace and local name of a property."""

    namespace: str
    local: str


@dataclass(frozen=True, eq=False)
class Attribute:
    """A property written as attribute: where its value is, and where all of it is."""

    name: Name
    text: str
    value: tuple[int, int]
    whole: tuple[int, int]


@dataclass(eq=False)
class Element:
    """An element, with its position in the packet: its start tag and its content end at `content`."""

    name: Name
    attributes: list[Attribute]
    content: tuple[int, int]
    whole: tuple[int, int]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def __iter__(self) -> Iterator[Element]:
        """The element and all below it, in the order of the packet."""
        waiting = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += reversed(element.children)

    @property
    def value(self) -> tuple[int, int]:
        """Position of the content."""
        return self.content


Property: TypeAlias = Attribute | Element


class XmpDocument:
    """A parsed packet and the edits to make in it.

    Args:
        packet: The packet, in UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Raises:
        XmpError: The packet is not well-formed XML, has a document type, or is too large.
    """

    def __init__(self, packet: bytes) -> None:
        self._encoding = next((name for mark, name in _BYTE_ORDER_MARKS if packet.startswith(mark)), "")
        try:
            self._bytes = packet.decode(self._encoding).encode() if self._encoding else packet
        except UnicodeDecodeError as error:
            raise XmpError("its XMP is not text in the encoding it claims") from error
        self.root = _parsed(self._bytes, "UTF-8" if self._encoding else None)
        self._edits: list[tuple[int, int, bytes]] = []

    def properties(self, name: Name) -> Iterator[Property]:
        """All properties of this name, attributes and elements."""
        return (found for element in self.root for found in direct(element, name))

    def in_namespace(self, prefix: str) -> Iterator[Property]:
        """All properties in a namespace, or in all namespaces that begin so."""
        for element in self.root:
            if element.name.namespace.startswith(prefix):
                yield element
            yield from (found for found in element.attributes if found.name.namespace.startswith(prefix))

    def replace(self, found: Property, text: str) -> None:
        """Replace the value of a property; the text needs no escapes."""
        start, end = found.value
        if isinstance(found, Element) and start == end == found.whole[1]:
            return  # <element/> has no place for a value
        self._edits.append((start, end, text.encode()))

    def remove(self, found: Property) -> None:
        """Remove a property with the white space before it."""
        start, end = found.whole
        while self._bytes[start - 1 : start].isspace():
            start -= 1
        self._edits.append((start, end, b""))

    def insert(self, place: int, text: bytes) -> None:
        """Insert bytes at a position of the UTF-8 form of the packet."""
        self._edits.append((place, place, text))

    def edited(self) -> bytes:
        """The packet with the edits; an edit inside something that is removed has no effect."""
        if not self._edits:
            return self._bytes.decode().encode(self._encoding) if self._encoding else self._bytes
        parts, at = [], 0
        for start, end, text in sorted(self._edits, key=lambda edit: (edit[0], -edit[1])):
            if start < at:
                continue
            parts += [self._bytes[at:start], text]
            at = end
        packet = b"".join([*parts, self._bytes[at:]])
        return packet.decode().encode(self._encoding) if self._encoding else packet


def direct(element: Element, name: Name) -> list[Property]:
    """Properties of this name that an element itself has, as attributes or children."""
    attributes: list[Property] = [found for found in element.attributes if found.name == name]
    return attributes + [found for found in element.children if found.name == name]


def items(element: Element) -> list[Element]:
    """Items of the list (rdf:Seq, rdf:Bag or rdf:Alt) in a property."""
    return [found for found in element if found.name == Name(RDF, "li")]


def number_of(found: Property) -> float | None:
    """Value of a property as a number; None if it is none."""
    try:
        value = float(found.text)
    except ValueError:
        return None
    return value if abs(value) < 1e12 else None  # False for NaN too


def written(value: float) -> str:
    """A number as text, with at most six decimals."""
    return f"{value:.6f}".rstrip("0").rstrip(".") if value != round(value) else str(round(value))


def _parsed(packet: bytes, encoding: str | None) -> Element:
    """Root element of a packet with the positions of everything below it; `encoding` None: that of the declaration."""
    content = packet.rstrip(b"\0")
    parser = expat.ParserCreate(encoding)
    root: list[Element] = []
    open_elements: list[Element] = []
    scopes: list[dict[bytes, str]] = [{b"": "", b"xml": "http://www.w3.org/XML/1998/namespace"}]
    count = 0

    def start(_name: str, _attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > _MOST_ELEMENTS or len(open_elements) >= _DEEPEST:
            raise XmpError("its XMP is too large or too deep")
        at = parser.CurrentByteIndex
        tag = _START_TAG.match(content, at)
        if tag is None:
            raise XmpError("its XMP is not valid XML")
        found = list(_ATTRIBUTE.finditer(content, at, tag.end()))
        scope = dict(scopes[-1])
        for match in found:
            if match[1] == b"xmlns" or match[1].startswith(b"xmlns:"):
                scope[match[1][6:]] = _unescaped(match[3] if match[2] is None else match[2])
        scopes.append(scope)
        attributes = [
            Attribute(
                _resolved(match[1], scope, is_attribute=True),
                _unescaped(match[3] if match[2] is None else match[2]).strip(),
                match.span(3) if match[2] is None else match.span(2),
                match.span(),
            )
            for match in found
            if match[1] != b"xmlns" and not match[1].startswith(b"xmlns:")
        ]
        raw = re.split(rb"[\s/>]", content[at + 1 : tag.end()], maxsplit=1)[0]
        element = Element(_resolved(raw, scope), attributes, (tag.end(), tag.end()), (at, tag.end()))
        if open_elements:
            open_elements[-1].children.append(element)
        else:
            root.append(element)
        open_elements.append(element)
        texts.append([])
        is_empty.append(bool(tag[1]))

    def end(_name: str) -> None:
        element, text = open_elements.pop(), texts.pop()
        scopes.pop()
        if not is_empty.pop():
            close = parser.CurrentByteIndex
            element.content = (element.content[0], close)
            element.whole = (element.whole[0], content.index(b">", close) + 1)
        if not element.children:
            element.text = "".join(text).strip()

    def characters(data: str) -> None:
        if texts:
            texts[-1].append(data)

    def refuse(*_declaration: object) -> None:
        raise XmpError("its XMP has a document type, which XMP does not allow")

    texts: list[list[str]] = []
    is_empty: list[bool] = []
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters, refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, UnicodeError) as error:
        raise XmpError("its XMP is not valid XML") from error
    return root[0]


def _resolved(raw: bytes, scope: dict[bytes, str], is_attribute: bool = False) -> Name:
    prefix, colon, local = raw.rpartition(b":")
    namespace = scope.get(prefix, "") if colon or not is_attribute else ""
    return Name(namespace, local.decode("utf-8", "replace"))


def _unescaped(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    for escape, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(escape, character)
    return text
