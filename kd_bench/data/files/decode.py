"""Decodes image files to RGB: JPEG with simplejpeg if installed, everything else with Pillow."""

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
except ImportError:  # the extra `jpeg`; Pillow decodes the same pixels, more slowly
    simplejpeg = None

DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # more than 8 bits, which PIL would clip
JPEG = b"\xff\xd8\xff"
ORIENTATION = 0x0112  # EXIF tag
EXIF = b"Exif", b"eXIf", b"EXIF"  # markers of EXIF in JPEG, PNG and WebP
# JPEG color spaces; Pillow converts those for print (CMYK, YCCK).
PLAIN_COLORS = ("YCbCr", "Gray")


def decode(file: bytes | str | os.PathLike[str], name: str = "") -> np.ndarray:
    """The pixels of an image, uint8 [H, W, 3], as Pillow decodes them.

    Grey, palette and CMYK images become RGB, transparency is dropped, and EXIF rotation is ignored,
    as in torchvision and timm.

    Args:
        file: its path or its content.
        name: used in error messages; defaults to the path if there is one.

    Raises:
        UserError: the file cannot be read, is not an image, is truncated, or is grey with more than
            8 bits; the message names it.
    """
    if isinstance(file, bytes):
        return _decode(file, name)
    return _decode(read(file), name or os.fspath(file))


def read(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file; error messages name it."""
    with naming(os.fspath(path)), open(path, "rb") as file:
        return file.read()


def versions() -> dict[str, str]:
    """The versions of the decoding libraries."""
    found = {"pillow": PIL.__version__}
    return found if simplejpeg is None else {"simplejpeg": simplejpeg.__version__, **found}


def _decode(content: bytes, name: str) -> np.ndarray:
    if simplejpeg is not None and content.startswith(JPEG):
        image = _decode_jpeg(content)
        if image is not None:
            return image
    return decode_with_pillow(content, name)


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """The image decoded by simplejpeg; None if Pillow must convert it or report what is wrong."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if colors not in PLAIN_COLORS or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        return simplejpeg.decode_jpeg(content)
    except ValueError:
        return None


def decode_with_pillow(content: bytes, name: str) -> np.ndarray:
    """Like `decode`, with Pillow alone, which is the reference."""
    with naming(name), Image.open(io.BytesIO(content)) as file:
        mode = file.mode
        require(mode not in DEEP, f"{name} has more than 8 bits per channel (PIL mode {mode})")
        # Without this step, Pillow warns about each palette that has transparent colors.
        image = file.convert("RGBA") if isinstance(file.info.get("transparency"), bytes) else file
        return np.asarray(image.convert("RGB"))


def orientation(content: bytes, name: str) -> int:
    """An image's EXIF orientation, 1 to 8; 1 is upright."""
    if not any(mark in content for mark in EXIF):
        return 1
    with naming(name), Image.open(io.BytesIO(content)) as image:
        # Pillow already rotates TIFF files when decoding.
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
