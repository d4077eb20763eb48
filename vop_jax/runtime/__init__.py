"""The run time of a command: start-up, processes, files, signals, exit status.

Imports: console, files.
Start reading at `startup`.
"""
