"""Text-video retrieval by prompt-tuning a frozen CLIP (VoP, CVPR 2023)."""
