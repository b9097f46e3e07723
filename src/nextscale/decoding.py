"""The one reader of pictures: what training, evaluation and every command see of a file, and of a picture in memory.

A picture is turned as its metadata say, put on white, and given 8 bits a colour. What was not taken as it stands in the
file (further frames, an uncommon range of values) is told beside it.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for bytes that are not what they should be."""
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
"""Formats that Pillow knows and cannot decode by itself (for EPS it would start another program)."""
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that some builds of Pillow lack."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations other than upright."""
FRAMES = "hold several frames or pages, of which the first is taken"
BYTES = "have more than 8 bits a pixel but no value above 255, and are read as 8 bits"
UNITS = "hold fractions from 0 to 1, and are read with 1 as white"
WORDS = "hold fractions up to 65535, and are read as 16 bits"


class Decoded(NamedTuple):
    """An RGB picture, RGBA where transparency was to be kept, and what was not taken as it stands in its file: phrases
    for "3 images ...".
    """

    picture: Image.Image
    remarks: tuple[str, ...] = ()


def suffixes() -> frozenset[str]:
    """The endings, ``.jpg`` and so on, of the files that are read as pictures: what Pillow here can decode."""
    known = set(_formats())
    found = {suffix for suffix, kind in Image.registered_extensions().items() if kind in known}
    return frozenset(found | ({".mpo"} if "JPEG" in known else set()))


def decode(content: bytes, alpha: bool = False) -> Decoded:
    """The picture in the bytes of a file. alpha: see :func:`visible`.

    Raises:
        Exception: one of ``DAMAGE``, where the bytes are damaged or the picture says nowhere what is white.
    """
    with Image.open(io.BytesIO(content), formats=_formats()) as opened:
        opened.load()
        several = has_frames(opened)
        picture, remarks = visible(opened, alpha)
    return Decoded(picture, ((FRAMES,) if several else ()) + remarks)


def visible(picture: Image.Image, alpha: bool = False) -> Decoded:
    """``picture`` as it is to be seen; equal to what :func:`decode` makes of its file.

    alpha: leave transparent parts as they are, so that one that may have some is RGBA, instead of putting them on
    white.

    Raises:
        Exception: one of ``DAMAGE``, where it says nowhere what is white.
    """
    remarks: tuple[str, ...] = ()
    picture = upright(picture)
    if picture.mode == "LAB":
        raise ValueError("its colours are LAB; expected RGB or grey")
    if picture.mode.startswith(("I", "F")):
        picture, remarks = _eight_bits(picture)
    transparent = picture.has_transparency_data
    if picture.mode not in ("RGB", "L") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if not (alpha and transparent):
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    mode = "RGBA" if alpha and transparent else "RGB"
    picture = picture.convert(mode) if picture.mode != mode else picture.copy()
    picture.info = {}  # it is upright now, whatever its metadata said
    return Decoded(picture, remarks)


def has_frames(opened: Image.Image) -> bool:
    """Whether a picture is one of several in its file."""
    return getattr(opened, "is_animated", False) and opened.format != "PSD"  # whose frames are layers


def reason(error: BaseException) -> str:
    """What Pillow says of a picture it cannot read, for a message."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture of a known format"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _formats() -> tuple[str, ...]:
    """What Pillow here can decode, with the formats that other packages have registered."""
    Image.init()
    return _decodable(tuple(Image.ID))


@cache
def _decodable(known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        kind for kind in known if kind not in NO_PICTURES and (kind not in CODECS or features.check(CODECS[kind]))
    )


def upright(picture: Image.Image) -> Image.Image:
    """``picture`` turned as its metadata say, and as :func:`visible` shows it; as it is where they are damaged, which
    its pixels need not be.
    """
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        return picture
    return picture if turn is None else picture.transpose(turn)


def _eight_bits(picture: Image.Image) -> Decoded:
    """A picture of one channel with 16 or 32 bits, in 8; its values say what is white, as its mode does not."""
    values = np.asarray(picture)
    low, high, fractions = float(values.min()), float(values.max()), picture.mode == "F"
    if not 0 <= low <= high <= 65535:
        wanted = "0 to 1, to 255 or to 65535" if fractions else "0 to 255 or to 65535"
        raise ValueError(f"its values go from {low:g} to {high:g}, which does not say what is white; expected {wanted}")
    remark = ""
    if fractions and high <= 1:
        values, remark = np.rint(values * 255.0), UNITS
    elif high <= 255:
        values, remark = np.rint(values), BYTES
    else:
        values, remark = values // 256, WORDS if fractions else ""
    return Decoded(Image.fromarray(values.astype(np.uint8)), (remark,) if remark and high else ())
