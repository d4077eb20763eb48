"""The page: whole, static, and inert whatever a caption holds."""

import json

import numpy as np
import pytest

from data_pipelines.feeding.split import Split
from vop_jax.runtime.metrics_log import MetricsWriter, read_metrics
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.report import examples, write_report

HOSTILE = "<script>alert(1)</script> & co"


@pytest.fixture
def split():
    frames = np.empty((3, 2), object)
    frames[:] = b"not looked at here"
    captions = [HOSTILE, "second", "third"]
    return Split("test", ["a", "b", "c"], frames, captions, np.arange(4), [{}] * 3)


def results(recall):
    one = {"R@1": recall, "R@5": 60.0, "R@10": 70.0, "MdR": 2.0, "MnR": 9.0}
    return {
        "split": "test",
        "queries": 3,
        "videos": 3,
        "trainable_parameters": 5,
        "t2v": one,
        "v2t": one,
    }


def test_the_page(split, tmp_path):
    folder = RunFolder(tmp_path)
    writer = MetricsWriter(folder)
    for step in (1, 2, 3):
        writer.write(step, loss=1 / step, learning_rate=0.1)
    writer.close()
    similarity = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    shown = examples(similarity, split, 3)
    assert [x.found.video_id for x in shown] == ["b", "b", "c"]
    assert [x.rank for x in shown] == [2, 1, 1]
    write_report(
        folder,
        config={"method": "vop", "dataset": HOSTILE, "num_frames": 2},
        results={"zero_shot": results(10.0), "vop": results(30.0)},
        trained=[("prompts/x", (2, 3), 6)],
        shown=shown,
    )
    page = folder.report.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "percentages; with so few videos the metrics say little" in page
    assert page.count("<svg") == 2
    assert page.count('class="verdict wrong"') == 1
    assert page.count('class="verdict right"') == 2
    assert 'class="best">30.0' in page
    # Nothing is fetched: every source is in the page itself.
    assert "<link" not in page
    assert page.count("src=") == page.count('src="data:image/jpeg;base64,')


def test_metrics_are_dropped_behind_the_step_of_a_resume(tmp_path):
    folder = RunFolder(tmp_path)
    writer = MetricsWriter(folder)
    for step in range(1, 6):
        writer.write(step, loss=float("nan") if step == 2 else step)
    writer.close()
    folder.metrics.write_text(folder.metrics.read_text() + '{"step": 6, "lo')
    MetricsWriter(folder, 3).close()
    lines = list(read_metrics(folder))
    # The first one says when the run was started.
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert lines[2]["loss"] is None
    assert json.loads(folder.metrics.read_text().splitlines()[0]) == lines[0]
