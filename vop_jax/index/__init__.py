"""Search in a folder of videos: by text, by a picture, or by a moment of a video.

The model is known only as the protocol `encoder.VideoEncoder`.

Imports: console, files, decoding, pages, runtime, text.
Start reading at `video_index`; `tables` says what is stored.
"""
