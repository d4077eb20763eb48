"""Resizes and stores single frames."""

import io

import numpy as np
from PIL import Image

JPEG_QUALITY = 95


def resize_and_crop(frame: np.ndarray, size: int) -> np.ndarray:
    """CLIP's resizing, in bytes: shorter side to `size`, then centre crop.

    Args:
        frame: `uint8 [H, W, 3]`.
        size: pixels.

    Returns:
        `uint8 [size, size, 3]`, by PIL's antialiased bicubic filter.
    """
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    short = min(height, width)
    scaled = (
        max(size, int(size * width / short)),
        max(size, int(size * height / short)),
    )
    image = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def encode_jpeg(frame: np.ndarray) -> bytes:
    """JPEG at quality 95 without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(
        buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4"
    )
    return buffer.getvalue()
