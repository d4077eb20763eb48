"""The demo as a TFDS builder."""

from data_pipelines.preparing.shards import VideoBuilder


class Demo(VideoBuilder, skip_registration=True):
    """Rendered clips of moving shapes, in groups that differ in temporal order."""

    name = "demo"
