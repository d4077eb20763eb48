"""The TFDS builder; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class DiDeMo(VideoBuilder, skip_registration=True):
    """Personal videos, each with one paragraph."""

    name = "didemo"
