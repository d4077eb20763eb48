"""The command line: errors, arguments, terminal output, Ctrl-C.

Both packages use it.

Imports: nothing.
Start reading at `errors`.
"""
