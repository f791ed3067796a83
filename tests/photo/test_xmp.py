"""Labels in XMP packets: added to any packet, and nothing else of it changes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from samples import XMP

from gfprestore.photo.xmp import SOURCE_TYPE, labeled

EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
INSTRUCTIONS = "{http://ns.adobe.com/photoshop/1.0/}Instructions"
DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"


def values_of(packet: bytes, name: str) -> list[str]:
    """All values of a property, written as attribute or element, by an XML parser."""
    tree = ElementTree.fromstring(packet.decode())
    attributes = [part.attrib[name] for part in tree.iter(DESCRIPTION) if name in part.attrib]
    return attributes + [part.text or "" for part in tree.iter(name)]


@pytest.mark.parametrize("packet", [None, XMP], ids=["new", "existing"])
def test_a_label_is_added_and_the_rest_is_kept(packet: bytes | None) -> None:
    result = labeled(packet, 'Say "no" & <mean> it')
    assert result is not None
    assert values_of(result, EXT) == [SOURCE_TYPE]
    assert values_of(result, INSTRUCTIONS) == ['Say "no" & <mean> it']
    if packet is not None:
        place = packet.index(b"</rdf:RDF>")
        assert result.startswith(packet[:place])
        assert result.endswith(packet[place:])


def test_a_second_label_changes_nothing() -> None:
    once = labeled(XMP, "text")
    assert once is not None
    assert labeled(once, "text") == once


@pytest.mark.parametrize(
    "old",
    [
        b'<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        b'Iptc4xmpExt:DigitalSourceType="digitalCapture"/>',
        b'<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        b"<Iptc4xmpExt:DigitalSourceType>digitalCapture</Iptc4xmpExt:DigitalSourceType></rdf:Description>",
    ],
    ids=["attribute", "element"],
)
def test_another_source_type_is_replaced_and_own_instructions_stay(old: bytes) -> None:
    own = b'<rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Instructions="mine"/>'
    result = labeled(XMP.replace(b"</rdf:RDF>", old + own + b"</rdf:RDF>"), "ours")
    assert result is not None
    assert values_of(result, EXT) == [SOURCE_TYPE]
    assert values_of(result, INSTRUCTIONS) == ["mine"]


@pytest.mark.parametrize("prefix", ["ext", "Iptc4xmpExt"])
@pytest.mark.parametrize("form", ["attribute", "element", "resource"])
def test_properties_are_found_under_any_prefix(prefix: str, form: str) -> None:
    value = {
        "attribute": f' {prefix}:DigitalSourceType="digitalCapture">',
        "element": f"><{prefix}:DigitalSourceType>digitalCapture</{prefix}:DigitalSourceType>",
        "resource": f'><{prefix}:DigitalSourceType R:resource="digitalCapture"/>',
    }[form]
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><R:RDF xmlns:R="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<R:Description xmlns:{prefix}="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'xmlns:P="http://ns.adobe.com/photoshop/1.0/" P:Instructions="mine"{value}</R:Description></R:RDF></x:xmpmeta>'
    ).encode()
    assert labeled(packet, "ours") == packet.replace(b"digitalCapture", SOURCE_TYPE.encode())


def test_a_packet_in_another_encoding_is_labeled_in_it() -> None:
    result = labeled(XMP.decode().encode("utf-16"), "text")
    assert result is not None
    assert values_of(result.decode("utf-16").encode(), EXT) == [SOURCE_TYPE]


@pytest.mark.parametrize("packet", [b"no XML", b"<x/>", XMP.replace(b"</rdf:RDF>", b"")])
def test_what_is_no_xmp_is_refused(packet: bytes) -> None:
    assert labeled(packet, "text") is None
