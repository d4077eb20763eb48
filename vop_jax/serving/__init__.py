"""The search page and its server: HTTP, who may ask, and clips for the browser.

Imports: console, files, decoding, text, pages, index.
Start reading at `server`.
"""
