"""The embedded demo: a rendered world of coloured shapes that move."""
