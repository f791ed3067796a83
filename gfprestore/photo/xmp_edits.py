"""Make the claims of an XMP packet true for a photo that was turned upright and enlarged, or remove them.

The claims are those of `xmp_claims.CLAIMS`. Regions are stored relative to the image before its EXIF orientation, as
the Metadata Working Group's guidelines say, unless the dimensions they apply to are those of the upright image. Opens
no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gfprestore.photo.xmp_claims import (
    ACDSEE_AREA,
    ACDSEE_DIMENSIONS,
    AREA,
    CAMERA_RAW,
    CLAIMS,
    DIMENSIONS,
    IPTC,
    PANORAMA,
    Claim,
    Treatment,
)
from gfprestore.photo.xmp_document import (
    Element,
    Name,
    Property,
    XmpDocument,
    direct,
    items,
    number_of,
    written,
)

Size = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """What happened to the pixels.

    Attributes:
        orientation: EXIF orientation by which they were turned, 1 to 8.
        stored: Width and height before.
        upright: Width and height after they were turned.
        final: Width and height of the result.
    """

    orientation: int
    stored: Size
    upright: Size
    final: Size

    @property
    def scale(self) -> Size:
        """Enlargement, horizontal and vertical."""
        return self.final[0] / self.upright[0], self.final[1] / self.upright[1]

    @property
    def is_quarter_turn(self) -> bool:
        """Whether width and height were swapped."""
        return self.orientation >= 5

    def point(self, x: float, y: float, size: Size = (1.0, 1.0)) -> tuple[float, float]:
        """Where a point of a stored image of this size is in the upright image."""
        if self.orientation in (2, 3, 7, 8):
            x = size[0] - x
        if self.orientation in (3, 4, 6, 7):
            y = size[1] - y
        return (y, x) if self.is_quarter_turn else (x, y)

    def sides(self, width: float, height: float) -> tuple[float, float]:
        """Width and height of a rectangle in the upright image."""
        return (height, width) if self.is_quarter_turn else (width, height)


def with_true_claims(packet: bytes, change: Change) -> tuple[bytes, tuple[str, ...]]:
    """Edit a packet for changed pixels; everything that is no claim about them stays, byte for byte.

    Returns:
        The packet and what the removed claims were about, sorted, without repetition.

    Raises:
        XmpError: The packet cannot be parsed.
    """
    document = XmpDocument(packet)
    removed: set[str] = set()
    for claim in CLAIMS:
        if _TREATMENTS[claim.treatment](document, claim, change):
            removed.add(claim.about)
    return document.edited(), tuple(sorted(removed))


# --- numbers -----------------------------------------------------------------------------------------------------


def _orientation(document: XmpDocument, claim: Claim, change: Change) -> bool:
    for found in _named(document, claim):
        if change.orientation != 1 and found.text != "1":
            document.replace(found, "1")
    return False


def _side(axis: int) -> Callable[[XmpDocument, Claim, Change], bool]:
    def treat(document: XmpDocument, claim: Claim, change: Change) -> bool:
        for found in _named(document, claim):
            if number_of(found) is not None:
                _put(document, found, change.final[axis])
        return False

    return treat


def _scaled(axis: int) -> Callable[[XmpDocument, Claim, Change], bool]:
    """Scale a resolution; where width and height were swapped, it gets the value of its partner."""

    def treat(document: XmpDocument, claim: Claim, change: Change) -> bool:
        own = claim.names[0]
        partner = own.replace("XRes", "YRes") if "XRes" in own else own.replace("YRes", "XRes")
        other = next(document.properties(Name(claim.namespace, partner)), None)
        for found in _named(document, claim):
            source = other if change.is_quarter_turn and other is not None else found
            ratio = _ratio(source.text)
            if ratio is not None:
                text = source.text if change.scale[axis] == 1 else _scaled_ratio(ratio, change.scale[axis])
                if text != found.text:
                    document.replace(found, text)
        return False

    return treat


def _ratio(text: str) -> tuple[int, int] | None:
    numerator, _, denominator = text.partition("/")
    if len(text) > 40 or not numerator.isdecimal() or not (denominator or "1").isdecimal():
        return None
    return (int(numerator), int(denominator or "1")) if int(denominator or "1") else None


def _scaled_ratio(ratio: tuple[int, int], factor: float) -> str:
    scaled = ratio[0] * factor
    if scaled == round(scaled):
        return f"{round(scaled)}/{ratio[1]}"
    return f"{round(scaled * 10_000)}/{ratio[1] * 10_000}"


def _subject(document: XmpDocument, claim: Claim, change: Change) -> bool:
    """Center x and y, then nothing, a diameter, or width and height, in pixels of the stored image."""
    for found in _named(document, claim):
        listed = items(found) if isinstance(found, Element) else []
        values = [number_of(item) for item in listed]
        if len(values) not in (2, 3, 4) or any(value is None for value in values):
            continue
        x, y, *sides = (value for value in values if value is not None)
        last_pixel = (change.stored[0] - 1, change.stored[1] - 1)
        turned = [*change.point(x, y, last_pixel), *(change.sides(*sides) if len(sides) == 2 else sides)]
        factors = (*change.scale, *change.scale) if len(sides) == 2 else (*change.scale, change.scale[0])
        for item, value, factor in zip(listed, turned, factors, strict=False):
            _put(document, item, round(value * factor))
    return False


# --- regions -----------------------------------------------------------------------------------------------------


def _regions(document: XmpDocument, claim: Claim, change: Change) -> bool:
    """Regions of the Metadata Working Group and of ACDSee: centers and sizes, and the dimensions they apply to."""
    for regions in _named(document, claim):
        if not isinstance(regions, Element):
            continue
        applied = _applied_dimensions(regions)
        is_stored = _is_like_stored([found[0] for found in applied], change)
        for (width, height), properties in applied:
            sides = change.sides(width, height) if is_stored else (width, height)
            if _same_shape(sides, change.upright):
                sides = change.final
            else:  # it was cropped after the regions were set: let programs still see that
                sides = (round(sides[0] * change.scale[0]), round(sides[1] * change.scale[1]))
            for found, side in zip(properties, sides, strict=True):
                _put(document, found, side)
        if not is_stored:
            continue
        for element in regions:
            for namespace in (AREA, ACDSEE_AREA):
                _turn_area(document, element, namespace, change)
    return False


def _applied_dimensions(regions: Element) -> list[tuple[Size, tuple[Property, Property]]]:
    found = []
    for element in regions:
        for namespace in (DIMENSIONS, ACDSEE_DIMENSIONS):
            sides = _numbers(element, namespace, ("w", "h"))
            if sides is not None:
                (width, one), (height, other) = sides
                found.append(((width, height), (one, other)))
    return found


def _is_like_stored(applied: list[Size], change: Change) -> bool:
    """Whether regions are relative to the stored image, and not, against the guidelines, to the upright one."""
    if not change.is_quarter_turn or not applied or min(applied[0]) <= 0:
        return True
    ratio = applied[0][0] / applied[0][1]
    stored, upright = change.stored[0] / change.stored[1], change.upright[0] / change.upright[1]
    return max(ratio / stored, stored / ratio) <= max(ratio / upright, upright / ratio)


def _same_shape(one: Size, other: Size) -> bool:
    """Whether two sizes have the same aspect ratio, to two pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= 2 * max(*one, *other)


def _turn_area(document: XmpDocument, element: Element, namespace: str, change: Change) -> None:
    center = _numbers(element, namespace, ("x", "y"))
    if center is None or change.orientation == 1:
        return
    _put_all(document, center, change.point(center[0][0], center[1][0]))
    sides = _numbers(element, namespace, ("w", "h"))
    if sides is not None:
        _put_all(document, sides, change.sides(sides[0][0], sides[1][0]))


def _rectangle(document: XmpDocument, claim: Claim, change: Change) -> bool:
    """Microsoft's regions: left, top, width and height in one text, relative to the image."""
    for found in _named(document, claim):
        parts = found.text.split(",")
        try:
            left, top, width, height = map(float, parts)
        except ValueError:
            continue
        if change.orientation != 1:
            x, y = change.point(left + width / 2, top + height / 2)
            width, height = change.sides(width, height)
            document.replace(found, ", ".join(map(written, (x - width / 2, y - height / 2, width, height))))
    return False


def _boundaries(document: XmpDocument, claim: Claim, change: Change) -> bool:
    """IPTC's regions: rectangle, circle or polygon, relative or in pixels."""
    for region in _named(document, claim):
        if not isinstance(region, Element):
            continue
        for element in region:
            unit = next(iter(direct(element, Name(IPTC, "rbUnit"))), None)
            if unit is not None:
                _turn_boundary(document, element, change, in_pixels=unit.text == "pixel")
    return False


def _turn_boundary(document: XmpDocument, boundary: Element, change: Change, in_pixels: bool) -> None:
    size, scale = (change.stored, change.scale) if in_pixels else ((1.0, 1.0), (1.0, 1.0))
    if not in_pixels and change.orientation == 1:
        return

    def put(numbers: tuple[tuple[float, Property], ...], values: tuple[float, ...]) -> None:
        scaled = [value * factor for value, factor in zip(values, scale, strict=False)]
        _put_all(document, numbers, tuple(map(round, scaled)) if in_pixels else tuple(scaled))

    for element in boundary:
        corner = _numbers(element, IPTC, ("rbX", "rbY"))
        if corner is None:
            continue
        x, y = corner[0][0], corner[1][0]
        sides = _numbers(element, IPTC, ("rbW", "rbH"))
        if sides is None:
            put(corner, change.point(x, y, size))
            continue
        width, height = sides[0][0], sides[1][0]
        center = change.point(x + width / 2, y + height / 2, size)
        width, height = change.sides(width, height)
        put(corner, (center[0] - width / 2, center[1] - height / 2))
        put(sides, (width, height))
    for radius in direct(boundary, Name(IPTC, "rbRx")):
        value = number_of(radius)
        if value is not None and in_pixels:
            _put(document, radius, round(value * scale[0]))
        elif value is not None and change.is_quarter_turn:  # relative to the width
            _put(document, radius, value * change.stored[0] / change.stored[1])


def _point(document: XmpDocument, claim: Claim, change: Change) -> bool:
    for element in document.root:
        found = _numbers(element, claim.namespace, claim.names)
        if found is not None and change.orientation != 1:
            _put_all(document, found, change.point(found[0][0], found[1][0]))
    return False


def _crop(document: XmpDocument, claim: Claim, change: Change) -> bool:
    is_removed = False
    for element in document.root:
        edges = _numbers(element, claim.namespace, claim.names)
        if edges is None or change.orientation == 1:
            continue
        angles = direct(element, Name(CAMERA_RAW, "CropAngle"))
        if any(number_of(angle) != 0 for angle in angles):
            for found in (*(edge for _, edge in edges), *angles, *direct(element, Name(CAMERA_RAW, "HasCrop"))):
                document.remove(found)
            is_removed = True
            continue
        (left, _), (top, _), (right, _), (bottom, _) = edges
        corners = (change.point(left, top), change.point(right, bottom))
        xs, ys = sorted(x for x, _ in corners), sorted(y for _, y in corners)
        _put_all(document, edges, (xs[0], ys[0], xs[1], ys[1]))
    return is_removed


_PANORAMA_AXES = {
    **dict.fromkeys(("FullPanoWidthPixels", "CroppedAreaImageWidthPixels", "CroppedAreaLeftPixels"), 0),
    **dict.fromkeys(("FullPanoHeightPixels", "CroppedAreaImageHeightPixels", "CroppedAreaTopPixels"), 1),
    **dict.fromkeys(("LargestValidInteriorRectLeft", "LargestValidInteriorRectWidth"), 0),
    **dict.fromkeys(("LargestValidInteriorRectTop", "LargestValidInteriorRectHeight"), 1),
}


def _panorama(document: XmpDocument, claim: Claim, change: Change) -> bool:
    if change.orientation != 1:
        return _removed(document, claim, change)
    for local, axis in _PANORAMA_AXES.items():
        for found in document.properties(Name(PANORAMA, local)):
            value = number_of(found)
            if value is not None:
                _put(document, found, round(value * change.scale[axis]))
    return False


# --- removal -----------------------------------------------------------------------------------------------------


def _removed(document: XmpDocument, claim: Claim, change: Change) -> bool:
    found = list(_named(document, claim)) if claim.names else list(document.in_namespace(claim.namespace))
    for entry in found:
        document.remove(entry)
    return bool(found)


def _removed_if_turned(document: XmpDocument, claim: Claim, change: Change) -> bool:
    return change.orientation != 1 and _removed(document, claim, change)


def _removed_if_embedded(document: XmpDocument, claim: Claim, change: Change) -> bool:
    found = [entry for entry in _named(document, claim) if entry.text.startswith("self#")]
    for entry in found:
        document.remove(entry)
    return bool(found)


# --- helpers -----------------------------------------------------------------------------------------------------


def _named(document: XmpDocument, claim: Claim) -> list[Property]:
    return [found for local in claim.names for found in document.properties(Name(claim.namespace, local))]


def _numbers(element: Element, namespace: str, names: tuple[str, ...]) -> tuple[tuple[float, Property], ...] | None:
    """Numbers that an element has itself under these names, with their properties; None if one is missing."""
    found = []
    for local in names:
        entry = next(iter(direct(element, Name(namespace, local))), None)
        value = None if entry is None else number_of(entry)
        if entry is None or value is None:
            return None
        found.append((value, entry))
    return tuple(found)


def _put(document: XmpDocument, found: Property, value: float) -> None:
    """Write a number, unless it is there already in whatever form."""
    if written(value) != written(number_of(found) or 0.0):
        document.replace(found, written(value))


def _put_all(document: XmpDocument, numbers: tuple[tuple[float, Property], ...], values: tuple[float, ...]) -> None:
    for (_, found), value in zip(numbers, values, strict=True):
        _put(document, found, value)


_TREATMENTS: dict[Treatment, Callable[[XmpDocument, Claim, Change], bool]] = {
    Treatment.ORIENTATION: _orientation,
    Treatment.WIDTH: _side(0),
    Treatment.HEIGHT: _side(1),
    Treatment.X_SCALED: _scaled(0),
    Treatment.Y_SCALED: _scaled(1),
    Treatment.SUBJECT: _subject,
    Treatment.REGIONS: _regions,
    Treatment.RECTANGLE: _rectangle,
    Treatment.BOUNDARIES: _boundaries,
    Treatment.POINT: _point,
    Treatment.CROP: _crop,
    Treatment.PANORAMA: _panorama,
    Treatment.REMOVED_IF_TURNED: _removed_if_turned,
    Treatment.REMOVED: _removed,
    Treatment.REMOVED_IF_EMBEDDED: _removed_if_embedded,
}
