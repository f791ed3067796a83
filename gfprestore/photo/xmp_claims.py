"""The claims that XMP packets make about the geometry and the attachments of their photo, in one table.

A restored photo is turned upright and enlarged, and its file holds one image: no clip, gain map or depth map behind it.
Each claim in the table is made right or removed; `gfprestore.photo.xmp_edits` says how. All other properties stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

TIFF = "http://ns.adobe.com/tiff/1.0/"
EXIF = "http://ns.adobe.com/exif/1.0/"
XMP = "http://ns.adobe.com/xap/1.0/"
MWG_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
AREA = "http://ns.adobe.com/xmp/sType/Area#"
DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
APPLE_FACES = "http://ns.apple.com/faceinfo/1.0/"
MICROSOFT_REGION = "http://ns.microsoft.com/photo/1.2/t/Region#"
ACDSEE_REGIONS = "http://ns.acdsee.com/regions/"
ACDSEE_AREA = "http://ns.acdsee.com/sType/Area#"
ACDSEE_DIMENSIONS = "http://ns.acdsee.com/sType/Dimensions#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
CAMERA = "http://ns.google.com/photos/1.0/camera/"
FOCUS = "http://ns.google.com/photos/1.0/focus/"
CAMERA_RAW = "http://ns.adobe.com/camera-raw-settings/1.0/"
DARKTABLE = "http://darktable.sf.net/"
EXTENDED = "http://ns.adobe.com/xmp/note/"
DUBLIN_CORE_TERMS = "http://purl.org/dc/terms/"


class Treatment(Enum):
    """What becomes of a claim."""

    ORIENTATION = auto()  # 1 when the pixels were turned
    WIDTH = auto()  # the new width in pixels
    HEIGHT = auto()
    X_SCALED = auto()  # a number of pixels or pixels per unit, scaled; swapped with its partner by a quarter turn
    Y_SCALED = auto()
    SUBJECT = auto()  # a list of pixel coordinates, turned and scaled
    REGIONS = auto()  # centers and sizes, turned; the dimensions they apply to, turned and scaled
    RECTANGLE = auto()  # corner and size in one text, turned
    BOUNDARIES = auto()  # IPTC's shapes, relative or in pixels, turned and scaled
    POINT = auto()  # two relative coordinates, turned
    CROP = auto()  # four relative edges, turned; removed with an angle
    PANORAMA = auto()  # removed when the pixels were turned; its pixels scaled
    REMOVED_IF_TURNED = auto()
    REMOVED = auto()  # describes what the result does not hold
    REMOVED_IF_EMBEDDED = auto()  # points into the file


@dataclass(frozen=True)
class Claim:
    """Properties with one meaning.

    Attributes:
        namespace: Their namespace; for `REMOVED`, also the beginning of several.
        names: Their local names, in the order that their treatment needs; empty for all names of the namespace.
        treatment: What becomes of them.
        about: What they describe, as in messages.
    """

    namespace: str
    names: tuple[str, ...]
    treatment: Treatment
    about: str


CLAIMS = (
    Claim(TIFF, ("Orientation",), Treatment.ORIENTATION, "orientation"),
    Claim(TIFF, ("ImageWidth",), Treatment.WIDTH, "dimensions"),
    Claim(TIFF, ("ImageLength",), Treatment.HEIGHT, "dimensions"),
    Claim(EXIF, ("PixelXDimension",), Treatment.WIDTH, "dimensions"),
    Claim(EXIF, ("PixelYDimension",), Treatment.HEIGHT, "dimensions"),
    Claim(TIFF, ("XResolution",), Treatment.X_SCALED, "resolution"),
    Claim(TIFF, ("YResolution",), Treatment.Y_SCALED, "resolution"),
    Claim(EXIF, ("FocalPlaneXResolution",), Treatment.X_SCALED, "resolution"),
    Claim(EXIF, ("FocalPlaneYResolution",), Treatment.Y_SCALED, "resolution"),
    Claim(EXIF, ("SubjectArea", "SubjectLocation"), Treatment.SUBJECT, "subject area"),
    Claim(MWG_REGIONS, ("Regions",), Treatment.REGIONS, "regions"),
    Claim(ACDSEE_REGIONS, ("Regions",), Treatment.REGIONS, "regions"),
    Claim(MICROSOFT_REGION, ("Rectangle",), Treatment.RECTANGLE, "regions"),
    Claim(IPTC, ("ImageRegion",), Treatment.BOUNDARIES, "regions"),
    Claim(APPLE_FACES, (), Treatment.REMOVED_IF_TURNED, "angles of faces"),
    Claim(FOCUS, ("FocalPointX", "FocalPointY"), Treatment.POINT, "focal point"),
    Claim(CAMERA_RAW, ("CropLeft", "CropTop", "CropRight", "CropBottom"), Treatment.CROP, "crop"),
    Claim(
        CAMERA_RAW,
        (
            "RetouchInfo", "RetouchAreas", "RedEyeInfo", "GradientBasedCorrections", "CircularGradientBasedCorrections",
            "PaintBasedCorrections", "MaskGroupBasedCorrections",
        ),
        Treatment.REMOVED_IF_TURNED,
        "local corrections",
    ),
    Claim(
        DARKTABLE,
        (
            "history", "history_end", "history_modversion", "iop_order_list", "masks_history", "mask", "mask_id",
            "mask_type", "mask_name", "mask_version", "mask_nb", "mask_src",
        ),
        Treatment.REMOVED_IF_TURNED,
        "editing steps",
    ),
    Claim(PANORAMA, (), Treatment.PANORAMA, "panorama"),
    Claim(
        CAMERA,
        (
            "MotionPhoto", "MotionPhotoVersion", "MotionPhotoPresentationTimestampUs", "MicroVideo",
            "MicroVideoVersion", "MicroVideoOffset", "MicroVideoPresentationTimestampUs",
        ),
        Treatment.REMOVED,
        "motion photo",
    ),
    Claim("http://ns.oplus.com/photos/1.0/camera/", (), Treatment.REMOVED, "motion photo"),
    Claim("http://ns.google.com/photos/1.0/container/", (), Treatment.REMOVED, "items behind the image"),
    Claim("http://ns.google.com/photos/dd/1.0/", (), Treatment.REMOVED, "depth map"),
    Claim("http://ns.adobe.com/hdr-gain-map/1.0/", (), Treatment.REMOVED, "gain map"),
    Claim("http://ns.apple.com/HDRGainMap/1.0/", (), Treatment.REMOVED, "gain map"),
    Claim("http://ns.apple.com/pixeldatainfo/1.0/", (), Treatment.REMOVED, "auxiliary images"),
    Claim("http://ns.google.com/photos/1.0/depthmap/", (), Treatment.REMOVED_IF_TURNED, "depth map"),
    Claim(XMP, ("Thumbnails",), Treatment.REMOVED, "thumbnail"),
    Claim(DUBLIN_CORE_TERMS, ("provenance",), Treatment.REMOVED_IF_EMBEDDED, "content credentials"),
)  # fmt: skip
