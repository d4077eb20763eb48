"""A decoder that does to a film what the film's name says."""

from films import film

CODE = """
import mmap, os, signal, sys, time
from data_pipelines.decoding import video_job
real = video_job.decode_uniform
def decode(path, count, **options):
    kind = path.stem
    if kind == "hangs":
        time.sleep(600)
    elif kind == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "takes":
        return bytearray(3 << 30)
    elif kind == "maps":
        return mmap.mmap(-1, 3 << 30)
    elif kind == "odd":
        raise ValueError("odd")
    elif kind == "prints":
        print("noise of a library", flush=True)
    return real(path, count, **options)
video_job.decode_uniform = decode
video_job.MEMORY = 1 << 30
video_job.serve()
"""


def write_films(folder):
    """A film for each thing a decoder may do, and some plain ones."""
    names = "abcdefgh", ("hangs", "crashes", "takes", "maps", "odd", "prints")
    for i, name in enumerate([*names[0], *names[1]]):
        film(folder / f"{name}.mp4", grey=10 + 10 * i)
