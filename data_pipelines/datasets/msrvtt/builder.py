"""The TFDS builders; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class MsrVtt9k(VideoBuilder, skip_registration=True):
    """9,000 training videos, test 1k-A."""

    name = "msrvtt_9k"


class MsrVtt7k(VideoBuilder, skip_registration=True):
    """7,010 training videos, test 1k-A."""

    name = "msrvtt_7k"
