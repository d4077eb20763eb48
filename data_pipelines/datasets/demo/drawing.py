"""Anti-aliased drawing of coloured shapes by signed distance, many images at once."""

import dataclasses

import numpy as np

SHAPES = ("circle", "square", "triangle", "ring", "cross", "arrow")
COLOURS = {
    "red": (225, 45, 45),
    "green": (50, 175, 70),
    "blue": (55, 90, 230),
    "yellow": (240, 215, 50),
    "purple": (150, 65, 190),
    "cyan": (70, 205, 215),
}
BACKGROUNDS = {
    "black": (15, 15, 15),
    "white": (240, 240, 240),
    "gray": (125, 125, 125),
    "brown": (105, 65, 30),
}


@dataclasses.dataclass
class Drawing:
    """N images of up to J objects each; lengths are fractions of the image's side.

    Attributes:
        shape: `[N, J]` index into `SHAPES`.
        x: `[N, J]` centre from the left.
        y: `[N, J]` centre from the top.
        radius: `[N, J]`; 0 draws nothing.
        angle: `[N, J]` counter-clockwise from pointing right, radians (arrows).
        colour: `[N, J, 3]`, 0 to 255.
        opacity: `[N, J]`, 0 to 1.
        background: `[N, 3]`, 0 to 255.
    """

    shape: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    colour: np.ndarray
    opacity: np.ndarray
    background: np.ndarray


def _box(x, y, half_width, half_height):
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


def _triangle(x, y, r):
    # Half-planes of an equilateral triangle that points up.
    side = np.abs(x) * (3**0.5 / 2) - (y + 0.05 * r) / 2 - 0.55 * r
    return np.maximum(side, y - 0.6 * r)


def _arrow(x, y, r):
    shaft = _box(x + 0.35 * r, y, 0.6 * r, 0.22 * r)
    # The head: a triangle with its tip at x = r.
    head = np.maximum(np.abs(y) * 0.75 + (x - r) * 0.66, -0.05 * r - x)
    return np.minimum(shaft, head)


_DISTANCES = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: _box(x, y, 0.85 * r, 0.85 * r),
    "triangle": lambda x, y, r: _triangle(x, y, 1.15 * r),
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r,
    "cross": lambda x, y, r: np.minimum(_box(x, y, r, 0.3 * r), _box(x, y, 0.3 * r, r)),
    "arrow": _arrow,
}


def draw(drawing: Drawing, size: int) -> np.ndarray:
    """Draws the images, `uint8 [N, size, size, 3]`."""
    count, objects = drawing.shape.shape
    image = np.empty((count, size, size, 3), np.float32)
    image[:] = drawing.background[:, None, None]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    for j in range(objects):
        for index, name in enumerate(SHAPES):
            visible = (drawing.radius[:, j] > 0) & (drawing.opacity[:, j] > 0)
            (rows,) = np.nonzero((drawing.shape[:, j] == index) & visible)
            if not len(rows):
                continue

            def of(values, rows=rows, j=j):
                return values[rows, j].astype(np.float32)[:, None, None]

            x = centres[None, None, :] - of(drawing.x)
            y = centres[None, :, None] - of(drawing.y)
            if name == "arrow":
                cosine, sine = np.cos(of(drawing.angle)), np.sin(of(drawing.angle))
                x, y = x * cosine - y * sine, x * sine + y * cosine
            distance = _DISTANCES[name](x, y, of(drawing.radius))
            cover = np.clip(0.5 - distance * size, 0, 1) * of(drawing.opacity)
            paint = drawing.colour[rows, j].astype(np.float32)[:, None, None]
            image[rows] += cover[..., None] * (paint - image[rows])
    return np.round(image).astype(np.uint8)
