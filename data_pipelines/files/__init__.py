"""Untrusted files, read within limits; locks, so that one process writes a place.

Both packages use it.

Imports: console.
Start reading at `json_files`.
"""
