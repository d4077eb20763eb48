"""Benchmarks: commands that reproduce the measurements in the documentation."""
