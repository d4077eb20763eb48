"""MSVD: 1,970 short web videos with about 40 captions each."""
