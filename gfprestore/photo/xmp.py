"""Labels in XMP for photos that a network changed, in IPTC's terms, which galleries and archives read.

IPTC's "digital source type" says that parts of the photo come from a trained model. The rest of a packet stays as it
is, byte for byte. Opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a photo of which parts were made by a trained model."""

NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
}
_END = b"</rdf:RDF>"
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' + _END + b'</x:xmpmeta><?xpacket end="w"?>'
)


def labeled(packet: bytes | None, instructions: str) -> bytes | None:
    """Add a label to a packet.

    Args:
        packet: XMP packet of a photo; None makes a new one.
        instructions: Notice to users of the photo, for `photoshop:Instructions` (IPTC "Instructions"). If the packet
            has instructions of its own, they are kept and these are not written.

    Returns:
        The packet with one more description; the source type replaces another one. None if the packet is not UTF-8 XML
        with the usual prefix `rdf`.
    """
    packet = packet or _EMPTY
    place = packet.rfind(_END)
    if place < 0:
        return None
    wanted = {"Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE, "photoshop:Instructions": instructions}
    missing: dict[str, str] = {}
    for name, value in wanted.items():
        if name.encode() not in packet:
            missing[name] = value
    if "Iptc4xmpExt:DigitalSourceType" not in missing:
        packet = _with_source_type(packet)
        place = packet.rfind(_END)
    return packet[:place] + _description(missing) + packet[place:] if missing else packet


def _description(properties: Mapping[str, str]) -> bytes:
    """An `rdf:Description` with these properties."""
    prefixes = dict.fromkeys(name.partition(":")[0] for name in properties)
    spaces = "".join(f" xmlns:{prefix}={quoteattr(NAMESPACES[prefix])}" for prefix in prefixes)
    values = "".join(f" {name}={quoteattr(value)}" for name, value in properties.items())
    return f'<rdf:Description rdf:about=""{spaces}{values}/>'.encode()


def _with_source_type(packet: bytes) -> bytes:
    """The packet with another value of its digital source type, an attribute or an element."""
    name = rb"Iptc4xmpExt:DigitalSourceType"
    packet = re.sub(rb"(\b" + name + rb"\s*=\s*)([\"'])[^\"'<]*\2", rb"\1\2" + SOURCE_TYPE.encode() + rb"\2", packet)
    packet = re.sub(rb"(<" + name + rb">)[^<]*(?=</)", rb"\1" + SOURCE_TYPE.encode(), packet)
    return re.sub(rb"(<" + name + rb"\s+rdf:resource\s*=\s*[\"'])[^\"'<]*", rb"\1" + SOURCE_TYPE.encode(), packet)
