"""What is opened as a video, whatever its name says."""

import av
import numpy as np
import odd_films
import pytest
from films import film
from written_films import decode_all, write

from data_pipelines.decoding.containers import MAX_PIXELS, MAX_STREAMS
from data_pipelines.decoding.frames import VideoError, decode_uniform, probe
from data_pipelines.decoding.sampling import uniform_indices

SCRIPTS = {
    "ffconcat": "ffconcat version 1.0\nfile {}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011">'
    "<Period><AdaptationSet><Representation><BaseURL>{}</BaseURL>"
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\n"
    "t=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "metadata": ";FFMETADATA1\ntitle={}\n",
    "lavfi": "testsrc=duration=5\n{}",
    "imf": '<?xml version="1.0"?><CompositionPlaylist>{}</CompositionPlaylist>',
    "art": "\x1b[31m{}\x1b[0m\n" * 50,
}


def status_of(path):
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 4)
    with pytest.raises(VideoError) as looked:
        probe(path)
    assert looked.value.status == error.value.status
    return error.value.status


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "m3u8", "txt", "sdp"])
def test_scripts_are_not_followed(tmp_path, monkeypatch, script, ending):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "other.mp4")
    path = tmp_path / f"a.{ending}"
    path.write_text(SCRIPTS[script].replace("{}", "other.mp4"))
    assert status_of(path) == "unreadable"


def test_the_control_of_scripts_is_followed_without_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "other.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(SCRIPTS["ffconcat"].replace("{}", "other.mp4"))
    assert len(decode_all(path)) == 4
    monkeypatch.setattr("data_pipelines.decoding.containers._OPTIONS", {})
    assert decode_uniform(path, 4).total_frames == 4


def test_samples_in_another_file_are_not_taken(tmp_path):
    write(tmp_path / "other.mp4")
    path = odd_films.elsewhere(tmp_path / "a.mov", "other.mp4")
    assert status_of(path) == "unreadable"


@pytest.mark.parametrize(
    "name",
    [
        "http:a.mp4",
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,9,,:a.mp4",
        "data:a.mp4",
        "pipe:0.mp4",
        "file:a.mp4",
        "a%d.mp4",
        "a%03d*.mp4",
        "-i.mp4",
        "a?b#c.mp4",
        "a b\n\t.mp4",
    ],
)
def test_a_name_is_only_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / name)
    assert decode_uniform(name, 4).total_frames == 4
    assert decode_uniform(tmp_path / name, 4).total_frames == 4


def test_tags_in_another_encoding(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Kaese"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"Kaese", b"K\xe4se\0"))
    assert decode_uniform(path, 1).total_frames == 1


@pytest.mark.parametrize("size", [(8000, 8000), (65535, 65535), (6001, 6000)])
def test_a_frame_of_too_many_pixels(tmp_path, size):
    assert status_of(odd_films.gif(tmp_path / "a.gif", *size)) == "too_large"


def test_a_frame_of_the_most_pixels(tmp_path):
    path = odd_films.gif(tmp_path / "a.gif", 6000, MAX_PIXELS // 6000)
    assert decode_uniform(path, 1, image_size=8).total_frames == 1


def test_a_displayed_frame_of_too_many_pixels(tmp_path, monkeypatch):
    path = odd_films.with_aspect(tmp_path / "a.mp4", 4, 3)
    monkeypatch.setattr("data_pipelines.decoding.containers.MAX_PIXELS", 48 * 70)
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 2)
    assert error.value.status == "too_large"
    assert decode_uniform(path, 2, ignore_pixel_aspect=True).total_frames == 8


@pytest.mark.parametrize("kind", ["frame", "decoder"])
def test_a_frame_that_grows_in_the_middle(tmp_path, monkeypatch, kind):
    path = odd_films.resized(tmp_path / "a.ts")
    most = 48 * 64
    monkeypatch.setattr("data_pipelines.decoding.containers.MAX_PIXELS", most)
    if kind == "decoder":
        options = {"err_detect": "explode", "max_pixels": str(most + 16)}
        monkeypatch.setattr(
            "data_pipelines.decoding.containers._DECODER_OPTIONS", options
        )
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 1)
    assert error.value.status == "too_large"


def test_too_many_streams_or_frames(tmp_path, monkeypatch):
    path = odd_films.streams(tmp_path / "a.mkv", [(16, 16)] * (MAX_STREAMS + 2))
    assert status_of(path) == "too_large"
    path = write(tmp_path / "b.mp4")
    monkeypatch.setattr("data_pipelines.decoding.packets.MAX_FRAMES", 39)
    with pytest.raises(VideoError, match="more than 39 frames") as error:
        decode_uniform(path, 4)
    assert error.value.status == "too_large"
    monkeypatch.undo()
    monkeypatch.setattr(
        "data_pipelines.decoding.kept_frames._MAX_BYTES", 3 * 48 * 64 * 3
    )
    assert len(decode_uniform(path, 3).frames) == 3
    with pytest.raises(VideoError) as error:
        decode_uniform(path, 4)
    assert error.value.status == "too_large"


def test_the_reference_of_these_tests(tmp_path):
    path = write(tmp_path / "a.mkv")
    expected = [decode_all(path)[i] for i in uniform_indices(40, 4)]
    np.testing.assert_array_equal(decode_uniform(path, 4).frames, expected)
