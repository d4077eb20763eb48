"""The TFDS builder; see README.md beside this file."""

from data_pipelines.preparing.shards import VideoBuilder


class ActivityNet(VideoBuilder, skip_registration=True):
    """Long videos, each with one paragraph; test val_1."""

    name = "activitynet"
