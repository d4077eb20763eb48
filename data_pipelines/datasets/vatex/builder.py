"""The TFDS builder; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class Vatex(VideoBuilder, skip_registration=True):
    """Ten-second clips with ten captions each."""

    name = "vatex"
