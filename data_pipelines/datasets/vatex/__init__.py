"""VATEX: ten-second clips with ten captions each."""
