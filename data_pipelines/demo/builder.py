"""The demo as a TFDS builder."""

from data_pipelines.builder import VideoBuilder


class Demo(VideoBuilder, skip_registration=True):
    """Rendered clips of shapes in motion, in groups that differ in order."""

    name = "demo"
