"""Shared by all image decoders: the pixel limit, detection of formats by their first bytes, and reasons for refusing a file.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

MAX_PIXELS = 178956970  # of a file: Pillow's own limit against decompression bombs, 2 * (2^30 / 4 / 3)
UNKNOWN = "not recognised as an image: JPEG, PNG, GIF, BMP, PPM, WebP, TIFF, AVIF and HEIC are"
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIC", b"msf1": "HEIC"}
_BRANDS.update(dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"))
_OTHERS = ((b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"8BPS", "Photoshop"))


class BadImage(ValueError):
    """A file that is not a usable image. The message is the reason, without the file name."""


def special_format(data: bytes) -> str:
    """Detect "AVIF", "HEIC" and other formats that need a separate decoder or are not supported; "" for the usual formats.

    Source: ISO/IEC 23008-12 (HEIF) and the AVIF specification: the brands in the box ``ftyp``, the main one first.
    """
    for start, name in _OTHERS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = [data[8:12]] + [data[place : place + 4] for place in range(16, size, 4)]
        brands.sort(key=(b"mif1", b"msf1").count)  # these two brands do not identify the codec
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "")
    return ""


def cannot_read(name: str, remedy: str = "") -> BadImage:
    """Reason and remedy for a file in a special format."""
    return BadImage(f"{name} cannot be read here: {remedy}convert the file to JPEG or PNG")
