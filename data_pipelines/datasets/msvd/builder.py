"""The TFDS builder; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class Msvd(VideoBuilder, skip_registration=True):
    """Short web videos with about 40 captions each."""

    name = "msvd"
