"""Where the shots of a video begin, as PySceneDetect finds them.

Its adaptive detector compares the colours of neighbouring frames: a cut is where they
differ by far more than in the frames around it, so that a moving camera is none. It
knows hard cuts only; a slow fade is part of a shot.
"""

import av
from av.video.reformatter import Interpolation
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

# Longest side of the pictures that are compared, pixels; more find no other cuts.
_SIDE = 256
# Detectors count frames; when they are shown is known here.
_RATE = 25.0


class ShotDetector:
    """Looks at the frames of a video, in order; holds the last one and five scores."""

    def __init__(self):
        # Shots of any length, since `windows.shot_edges` joins short ones by time.
        self._detector = AdaptiveDetector(min_scene_len=0)
        self._size = (0, 0)
        self._cuts: set[int] = set()

    def add(self, number: int, frame: av.VideoFrame) -> None:
        """Looks at a frame.

        Args:
            number: of the frame; more than that of the frame before.
            frame: as decoded; of whatever size.
        """
        if not any(self._size):
            scale = min(1.0, _SIDE / max(frame.width, frame.height))
            width, height = (round(scale * x) for x in (frame.width, frame.height))
            self._size = max(1, width), max(1, height)
        # Frames may change their size, but only equal sizes can be compared.
        small = frame.reformat(*self._size, "bgr24", interpolation=Interpolation.AREA)
        time = FrameTimecode(number, fps=_RATE)
        for cut in self._detector.process_frame(time, small.to_ndarray()):
            self._cuts.add(cut.frame_num)

    def cut_at(self, number: int) -> None:
        """Makes a shot begin with a frame, whatever is seen."""
        self._cuts.add(number)

    def cuts(self) -> list[int]:
        """The numbers of the frames that shots begin with, ascending.

        A cut is known two frames later.
        """
        return sorted(self._cuts)
