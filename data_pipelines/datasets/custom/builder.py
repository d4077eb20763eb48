"""The TFDS builder; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class Custom(VideoBuilder, skip_registration=True):
    """Your own videos and captions."""

    name = "custom"
