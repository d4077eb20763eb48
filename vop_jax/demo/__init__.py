"""The embedded demo's backbone: how it was pre-trained, and the files themselves."""

from pathlib import Path

BACKBONE = Path(__file__).parent / "backbone"
