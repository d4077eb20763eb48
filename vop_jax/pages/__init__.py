"""HTML pages: templates rendered, charts drawn.

Imports: console.
Start reading at `render`.
"""
