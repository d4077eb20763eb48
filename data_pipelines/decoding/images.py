"""Resizes and stores single frames."""

import io

import numpy as np
from PIL import Image

from data_pipelines.decoding.resizing import CLIP_RESIZING, RESIZES, Resizing

JPEG_QUALITY = 95
# Name -> PIL's filter.
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def resize_frame(
    frame: np.ndarray, size: int, resizing: Resizing = CLIP_RESIZING
) -> np.ndarray:
    """Makes a frame square, in bytes, as the model that reads it was trained.

    Args:
        frame: `uint8 [H, W, 3]`.
        size: S, pixels.
        resizing: how.

    Returns:
        `uint8 [S, S, 3]`; PIL's and torchvision's numbers.
    """
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    scaled = RESIZES[resizing.resize].scaled(width, height, size)
    image = Image.fromarray(frame).resize(scaled, _FILTERS[resizing.filter])
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def encode_jpeg(frame: np.ndarray) -> bytes:
    """JPEG at quality 95 without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(
        buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4"
    )
    return buffer.getvalue()
