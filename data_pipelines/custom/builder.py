"""The TFDS builder; see README.md beside this file."""

from data_pipelines.builder import VideoBuilder


class Custom(VideoBuilder, skip_registration=True):
    """Videos and captions of one's own."""

    name = "custom"
