"""The Hugging Face hub: names, files fetched into its cache, folders pushed.

Imports: console.
Start reading at `fetching`.
"""
