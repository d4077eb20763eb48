"""The TFDS builder; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class Lsmdc(VideoBuilder, skip_registration=True):
    """Clips of films with the descriptions written for the blind."""

    name = "lsmdc"
