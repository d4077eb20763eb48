"""Video files to frames: frame-exact, within limits, in worker processes.

Imports: console, files, catalog.
Start reading at `frames`; of long videos at `moments`.
"""
