"""Colours as sRGB: the ICC profile of a photo, or the gamma of a PNG, is applied to its pixels.

Little CMS does it, through Pillow. Whether a profile says sRGB anyway, which most do, is read here
from its numbers: such photos cost nothing, and a profile from a stranger reaches Little CMS only in
the processes that decode.
"""

import io
import struct
from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageCms

_HEADER = 128  # bytes of a profile before its tags
_LARGEST_PROFILE = 1 << 22  # bytes; those of printers have 2 MB
_MOST_TAGS = 200
_D50_SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
_FAR_PRIMARY, _FAR_LIGHT = 0.005, 0.012
_SAMPLES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9)  # where a curve is compared with that of sRGB
_PNG_GAMMA = 1 / 2.2
_FAR_GAMMA = 0.05

Curve = Callable[[float], float]


def profile_of(image: Image.Image) -> bytes | None:
    """The ICC profile in an open image; None without one, or if it cannot be one."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not _HEADER < len(profile) <= _LARGEST_PROFILE:
        return None
    return profile if profile[36:40] == b"acsp" else None


@lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Whether a profile means what is taken for granted without one: sRGB, or grey with its curve.

    A profile with tables, or one that cannot be read, is not sRGB.
    """
    try:
        tags = _tags(profile)
        if any(name.startswith((b"A2B", b"D2B")) for name in tags):
            return False
        if profile[16:20] == b"GRAY":
            return _is_srgb_curve(_curve(tags[b"kTRC"]))
        primaries = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        return (
            profile[16:20] == b"RGB "
            and all(
                abs(value / 65536 - right) < _FAR_PRIMARY
                for found, of_srgb in zip(primaries, _D50_SRGB, strict=True)
                for value, right in zip(found, of_srgb, strict=True)
            )
            and all(_is_srgb_curve(_curve(tags[n])) for n in (b"rTRC", b"gTRC", b"bTRC"))
        )
    except (KeyError, ValueError, ArithmeticError, TypeError, struct.error):
        return False


def needs_conversion(image: Image.Image) -> bool:
    """Whether an open image has a profile that changes its colours."""
    profile = profile_of(image)
    return profile is not None and not is_srgb(profile)


def to_srgb(image: Image.Image, source: Image.Image) -> Image.Image:
    """An image in RGB or CMYK as RGB in sRGB. source: what it was decoded from, with its profile.

    A profile for other colours than those of the image, or one that Little CMS does not take, is
    left out, as viewers do.
    """
    profile = profile_of(source)
    if profile is not None and not is_srgb(profile):
        mode = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get(profile[16:20], "")
        if mode == "L" and image.mode == "RGB":
            image = image.getchannel(1)
        transform = _transform(profile, mode) if mode == image.mode else None
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            if converted is not None:
                return converted
    elif profile is None and (gamma := _gamma(source)) is not None:
        curve = [round(255 * (i / 255) ** (_PNG_GAMMA / gamma)) for i in range(256)]
        return image.convert("RGB").point(curve * 3)
    return image.convert("RGB")


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """An image in CIE L*a*b* as RGB in sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How pixels of a mode become sRGB; None if Little CMS does not take the profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _gamma(image: Image.Image) -> float | None:
    """The gamma that a PNG without a profile was stored with, if it is another than usual."""
    gamma = image.info.get("gamma")
    if image.format != "PNG" or "srgb" in image.info or not isinstance(gamma, float):
        return None
    usual = abs(gamma - _PNG_GAMMA) < _FAR_GAMMA
    return gamma if 0.2 <= gamma <= 3.0 and not usual else None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """The data of each tag of a profile."""
    (count,) = struct.unpack_from(">I", profile, _HEADER)
    if count > _MOST_TAGS:
        raise ValueError("too many tags")
    tags = {}
    for number in range(count):
        name, start, length = struct.unpack_from(">4sII", profile, _HEADER + 4 + 12 * number)
        tags[name] = profile[start : start + length]
    return tags


def _curve(data: bytes) -> Curve:
    """A curve of a profile: from a stored value, 0 to 1, to light. ICC.1:2022, 10.6 and 10.18."""
    (kind, count) = struct.unpack_from(">4s4xI", data)
    if kind == b"para":
        (function,) = struct.unpack_from(">H", data, 8)
        length = (1, 3, 4, 5, 7)[function]
        g, a, b, c, d, e, f = [v / 65536 for v in struct.unpack_from(f">{length}i", data, 12)] + [
            0.0
        ] * (7 - length)
        if function < 3:
            return lambda x: x**g if function == 0 else max(a * x + b, 0.0) ** g + c
        return lambda x: (a * x + b) ** g + e if x >= d else c * x + f
    if kind != b"curv":
        raise ValueError("no curve")
    if count <= 1:
        gamma = struct.unpack_from(">H", data, 12)[0] / 256 if count else 1.0
        return lambda x: x**gamma
    table = struct.unpack_from(f">{min(count, 4096)}H", data, 12)
    if count > len(table):
        raise ValueError("a long table")

    def look_up(x: float) -> float:
        place = x * (len(table) - 1)
        low = min(int(place), len(table) - 2)
        return float(table[low] + (place - low) * (table[low + 1] - table[low])) / 65535

    return look_up


def _is_srgb_curve(curve: Curve) -> bool:
    def light(x: float) -> float:
        return x / 12.92 if x <= 0.04045 else float(((x + 0.055) / 1.055) ** 2.4)

    return all(abs(curve(x) - light(x)) < _FAR_LIGHT for x in _SAMPLES)
