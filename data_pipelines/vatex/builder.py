"""The TFDS builder; see README.md beside this file."""

from data_pipelines.builder import VideoBuilder


class Vatex(VideoBuilder, skip_registration=True):
    """Ten-second clips with ten captions each."""

    name = "vatex"
