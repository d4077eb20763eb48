"""ActivityNet Captions: long videos, described sentence by sentence."""
