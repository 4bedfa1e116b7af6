"""Decodes an image file to RGB: simplejpeg for JPEG where it is installed, Pillow for the rest."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from kd_bench.interfaces import UserError, require

try:
    import simplejpeg
except ImportError:  # the extra `jpeg`; Pillow gives the same pixels in twice the time
    simplejpeg = None

DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # more than 8 bits: PIL would clip them
JPEG = b"\xff\xd8\xff"
ORIENTATION = 0x0112  # the entry of EXIF
EXIF = b"Exif", b"eXIf", b"EXIF"  # what it begins with in JPEG, PNG and WebP
# Of JPEG; those of print (CMYK, YCCK) are converted by Pillow.
PLAIN_COLORS = ("YCbCr", "Gray")


def decode(file: bytes | str | os.PathLike[str], name: str = "") -> np.ndarray:
    """The pixels of an image, uint8 [H, W, 3], as Pillow decodes them.

    Grey, palette and CMYK images become RGB, transparency is dropped, and a rotation in EXIF is
    ignored, as torchvision and timm do.

    Args:
        file: its path or its content.
        name: what messages call it; the path if there is one.

    Raises:
        UserError: it cannot be read, is no image, is truncated, or is grey with more than 8 bits;
            names the file.
    """
    if isinstance(file, bytes):
        return _decode(file, name)
    return _decode(read(file), name or os.fspath(file))


def read(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file; its errors name it."""
    with naming(os.fspath(path)), open(path, "rb") as file:
        return file.read()


def versions() -> dict[str, str]:
    """The versions of the libraries that decode."""
    found = {"pillow": PIL.__version__}
    return found if simplejpeg is None else {"simplejpeg": simplejpeg.__version__, **found}


def _decode(content: bytes, name: str) -> np.ndarray:
    if simplejpeg is not None and content.startswith(JPEG):
        image = _decode_jpeg(content)
        if image is not None:
            return image
    return decode_with_pillow(content, name)


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """The image by simplejpeg; None if that is for Pillow to convert, or to name what is wrong."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if colors not in PLAIN_COLORS or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        return simplejpeg.decode_jpeg(content)
    except ValueError:
        return None


def decode_with_pillow(content: bytes, name: str) -> np.ndarray:
    """As `decode` with Pillow alone, which is the reference."""
    with naming(name), Image.open(io.BytesIO(content)) as file:
        mode = file.mode
        require(mode not in DEEP, f"{name} has more than 8 bits per channel (PIL mode {mode})")
        # Without this step, Pillow warns of each palette that has transparent colors.
        image = file.convert("RGBA") if isinstance(file.info.get("transparency"), bytes) else file
        return np.asarray(image.convert("RGB"))


def orientation(content: bytes, name: str) -> int:
    """How EXIF says to turn an image, 1 to 8; 1: it is upright."""
    if not any(mark in content for mark in EXIF):
        return 1
    with naming(name), Image.open(io.BytesIO(content)) as image:
        # Pillow turns TIFF files when it decodes them.
        turn = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
        return turn if turn in range(1, 9) else 1


def size_of(file: str | os.PathLike[str] | IO[bytes], name: str = "") -> tuple[int, int]:
    """Width and height of an image, from a path or an open file, without decoding it."""
    with naming(name or str(file)), Image.open(file) as image:
        return image.size


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Convert errors about an image into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        is_link = os.path.islink(name)
        what = "is a link to a file that does not exist" if is_link else "does not exist"
        raise UserError(f"{name} {what}") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large for PIL to decode: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:  # all raised by PIL for broken files
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise UserError(f"{name} is not an image that PIL can read{why}") from error
