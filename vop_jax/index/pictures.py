"""Reads a picture that is a query."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipelines.console.errors import UserError
from data_pipelines.files.array_bytes import open_regular

# Pixels of the largest picture; PIL itself only warns of larger ones.
_MOST_PIXELS = 100_000_000


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The first frame of a picture in any format that PIL reads, upright.

    Raises:
        UserError: it cannot be read, or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with open_regular(path) as file:
        try:
            image = Image.open(file)
            if image.width * image.height > _MOST_PIXELS:
                raise UserError(
                    f"{path} has {image.width:,} x {image.height:,} pixels; use a "
                    f"picture of at most {_MOST_PIXELS:,}"
                )
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except UserError:
            raise
        # Its own message shows the object that was read.
        except UnidentifiedImageError:
            raise UserError(
                f"{path} is not a picture that can be read (no known format)"
            ) from None
        # A damaged file can make a decoder fail in any way.
        except Exception as error:
            raise UserError(
                f"{path} is not a picture that can be read ({str(error)[:200]})"
            ) from None
