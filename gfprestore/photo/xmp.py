"""Labels in XMP for photos that a network changed, in IPTC's terms, which galleries and archives read.

IPTC's "digital source type" says that parts of the photo come from a trained model. The rest of a packet stays as it
is, byte for byte. Opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

from gfprestore.photo.xmp_claims import IPTC
from gfprestore.photo.xmp_document import RDF, Attribute, Element, Name, Property, XmpDocument, XmpError

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a photo of which parts were made by a trained model."""

NAMESPACES = {
    "Iptc4xmpExt": IPTC,
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
}
_SOURCE_TYPE = Name(IPTC, "DigitalSourceType")
_INSTRUCTIONS = Name(NAMESPACES["photoshop"], "Instructions")
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def labeled(packet: bytes | None, instructions: str) -> bytes | None:
    """Add a label to a packet.

    Args:
        packet: XMP packet of a photo; None makes a new one.
        instructions: Notice to users of the photo, for `photoshop:Instructions` (IPTC "Instructions"). If the packet
            has instructions of its own, they are kept and these are not written.

    Returns:
        The packet with one more description; the source type replaces another one. None if the packet is not valid XMP.
    """
    try:
        document = XmpDocument(packet or _EMPTY)
    except XmpError:
        return None
    rdf = next((element for element in document.root if element.name == Name(RDF, "RDF")), None)
    if rdf is None or rdf.content[1] == rdf.whole[1]:  # <rdf:RDF/> has no place for a description
        return None
    missing: dict[str, str] = {}
    source_types = list(document.properties(_SOURCE_TYPE))
    for found in source_types:
        document.replace(_value_of(found), SOURCE_TYPE)
    if not source_types:
        missing["Iptc4xmpExt:DigitalSourceType"] = SOURCE_TYPE
    if next(document.properties(_INSTRUCTIONS), None) is None:
        missing["photoshop:Instructions"] = instructions
    if missing:
        document.insert(rdf.content[1], _description(missing))
    return document.edited()


def _value_of(found: Property) -> Property:
    """The property itself, or its attribute `rdf:resource` where that holds the value."""
    resources: list[Attribute] = []
    if isinstance(found, Element):
        resources = [attribute for attribute in found.attributes if attribute.name == Name(RDF, "resource")]
    return resources[0] if resources else found


def _description(properties: Mapping[str, str]) -> bytes:
    """An `rdf:Description` with these properties, in which all prefixes are declared."""
    prefixes = dict.fromkeys(name.partition(":")[0] for name in properties)
    spaces = "".join(f" xmlns:{prefix}={quoteattr(NAMESPACES[prefix])}" for prefix in prefixes)
    values = "".join(f" {name}={quoteattr(value)}" for name, value in properties.items())
    return f'<rdf:Description xmlns:rdf="{RDF}" rdf:about=""{spaces}{values}/>'.encode()
