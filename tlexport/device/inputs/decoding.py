"""What every image decoder shares: the limit on pixels, the formats known by their first bytes, and why a file is refused.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

MAX_PIXELS = 178956970  # of a file: Pillow's own limit against decompression bombs, 2 * (2^30 / 4 / 3)
UNKNOWN = "not recognised as an image: JPEG, PNG, GIF, BMP, PPM, WebP, TIFF, AVIF and HEIC are"
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIC", b"msf1": "HEIC"}
_BRANDS.update(dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"))
_OTHERS = ((b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"8BPS", "Photoshop"))


class BadImage(ValueError):
    """A file that is not an image, or not one that can be used. The text is the reason, without the file's name."""


def special_format(data: bytes) -> str:
    """Name "AVIF", "HEIC", or another format that needs a decoder of its own or is not read at all; "" for the usual ones.

    Source: ISO/IEC 23008-12 (HEIF) and the AVIF specification: the brands in the box ``ftyp``, the main one first.
    """
    for start, name in _OTHERS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = [data[8:12]] + [data[place : place + 4] for place in range(16, size, 4)]
        brands.sort(key=(b"mif1", b"msf1").count)  # these two alone do not say how the pixels are coded
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), "")
    return ""


def cannot_read(name: str, remedy: str = "") -> BadImage:
    """The reason why a file of a special format is refused, and what to do."""
    return BadImage(f"{name} cannot be read here: {remedy}convert the file to JPEG or PNG")
