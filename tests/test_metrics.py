"""Facts about metrics: what is written comes back, each step once, and no TensorFlow is needed for it."""

import io
import json
import logging
import math
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import events, metrics

WAIT = events._wait_for_a_new_second


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named by the second, and a writer waits for a new one; tests move the clock instead."""
    ahead = [0]
    clock = types.SimpleNamespace(time=lambda: time.time() + ahead[0])
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", clock)
    monkeypatch.setattr(events, "_wait_for_a_new_second", lambda logdir: ahead.append(ahead.pop() + 1))


def write(workdir: Path, steps: range, *, start: int = 0, scale: float = 1.0) -> None:
    writer = metrics.Writer(workdir, step=start)
    for step in steps:
        writer.write_scalars(step, {"loss": np.float32(scale / step), "rate": step})
    writer.close()


def both(workdir: Path) -> tuple[metrics.Series, metrics.Series]:
    return metrics.read_scalars(workdir), metrics.read_events(workdir)


def test_scalars_come_back_from_both_files(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    for found in both(tmp_path):
        assert list(found) == ["loss", "rate"]
        steps, values = found["loss"]
        assert (steps.dtype, values.dtype) == (np.int64, np.float64)
        assert steps.tolist() == [1, 2, 3, 4, 5]
        assert values.tolist() == [float(np.float32(1 / step)) for step in steps]


def test_a_resume_reports_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8))
    write(tmp_path, range(5, 9), start=4, scale=2.0)
    write(tmp_path, range(7, 10), start=6, scale=3.0)
    scales = [1, 1, 1, 1, 2, 2, 3, 3, 3]
    for found in both(tmp_path):
        steps, values = found["loss"]
        assert steps.tolist() == list(range(1, 10))
        assert values.tolist() == [float(np.float32(scale / step)) for scale, step in zip(scales, steps, strict=True)]


def test_a_second_resume_at_the_same_step_reports_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    for _ in range(2):
        write(tmp_path, range(2, 4), start=1)
    write(tmp_path, range(4, 6), start=3)
    write(tmp_path, range(4, 6), start=3)
    for found in both(tmp_path):
        assert found["loss"][0].tolist() == [1, 2, 3, 4, 5]


def test_a_fresh_start_keeps_the_logs_of_an_earlier_run_under_other_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "absl"):
        for scale in (1.0, 2.0, 3.0):
            write(tmp_path, range(1, 4), scale=scale)
    said = [message for message in caplog.messages if message.startswith("the logs")]
    assert said == [f"the logs of an earlier run in {tmp_path} are kept, as *.old-{n}*" for n in (0, 1)]
    for found in both(tmp_path):
        assert found["loss"][1].tolist() == [float(np.float32(3 / step)) for step in (1, 2, 3)]
    assert [path.name for path in tmp_path.glob("*tfevents*")] == [path.name for path in events.files(tmp_path)]
    for n, scale in enumerate((1.0, 2.0)):
        earlier = tmp_path / f"earlier-{n}"
        earlier.mkdir()
        (tmp_path / f"{metrics.FILE}.old-{n}").rename(earlier / metrics.FILE)
        (old,) = tmp_path.glob(f"events.out.old-{n}.*")
        old.rename(earlier / old.name.replace(f"old-{n}", "tfevents"))
        for found in both(earlier):
            assert found["loss"][1].tolist() == [float(np.float32(scale / step)) for step in (1, 2, 3)]


def test_a_tensorboard_that_has_read_orphans_is_told_to_drop_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import plugin_event_accumulator

    write(tmp_path, range(1, 8))
    live = plugin_event_accumulator.EventAccumulator(os.fspath(tmp_path), tensor_size_guidance={"scalars": 0})
    live.Reload()
    assert [event.step for event in live.Tensors("loss")] == [1, 2, 3, 4, 5, 6, 7]
    write(tmp_path, range(5, 7), start=4)
    live.Reload()
    assert [event.step for event in live.Tensors("loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("keep", [2, 5, 20, 30])
def test_the_torn_end_of_a_killed_run_is_dropped(tmp_path: Path, keep: int) -> None:
    write(tmp_path, range(1, 6))
    (file,) = tmp_path.glob("events.*")
    for path in (tmp_path / metrics.FILE, file):
        os.truncate(path, path.stat().st_size - keep)
    assert metrics.read_scalars(tmp_path)["loss"][0].tolist() == [1, 2, 3, 4]
    write(tmp_path, range(5, 7), start=4)
    for found in both(tmp_path):
        assert found["loss"][0].tolist() == [1, 2, 3, 4, 5, 6]
    for line in (tmp_path / metrics.FILE).read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("place", [0, 7, 8, 12, 30, -1])  # of a record: length, its CRC, content, CRC of the content
def test_events_end_before_the_first_damaged_record(tmp_path: Path, place: int) -> None:
    write(tmp_path, range(1, 6))
    (path,) = events.files(tmp_path)
    whole = bytearray(path.read_bytes())
    begin, end = (events._end_of_step(io.BytesIO(whole), step) for step in (3, 4))
    whole[(begin if place >= 0 else end) + place] ^= 16
    path.write_bytes(whole)
    events.cut_back(tmp_path, 5)
    assert path.stat().st_size == begin < end < len(whole)
    write(tmp_path, range(4, 7), start=3)
    assert metrics.read_events(tmp_path)["loss"][0].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_tail_of_zeros_is_no_event(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    (path,) = events.files(tmp_path)
    size = path.stat().st_size
    os.truncate(path, size + 4096)  # what a power cut leaves on some file systems
    events.cut_back(tmp_path, 5)
    assert path.stat().st_size == size


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "1", "loss": 1}', "\x00\xff", ""])
def test_an_illegible_line_does_not_hide_the_others(tmp_path: Path, line: str) -> None:
    rows = ['{"step": 1, "loss": 2}', line, '{"step": 3, "loss": 4}']
    (tmp_path / metrics.FILE).write_text("\n".join(rows), encoding="utf-8")
    steps, values = metrics.read_scalars(tmp_path)["loss"]
    assert (steps.tolist(), values.tolist()) == ([1, 3], [2.0, 4.0])


def test_values_that_are_not_finite_stay_so_and_the_lines_stay_json(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path)
    writer.write_scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()
    for found in both(tmp_path):
        assert math.isnan(found["a"][1][0]) and found["b"][1][0] == math.inf and found["c"][1][0] == -math.inf
    json.loads((tmp_path / metrics.FILE).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_workdir_without_metrics_has_none(tmp_path: Path) -> None:
    assert metrics.read_scalars(tmp_path) == {}
    assert metrics.read_scalars(tmp_path / "absent") == {}


def test_what_is_flushed_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer import record_writer

    write_now = record_writer.RecordWriter.write

    def write_slowly(self: record_writer.RecordWriter, content: bytes) -> None:
        time.sleep(0.1)
        write_now(self, content)

    writer = metrics.Writer(tmp_path)
    monkeypatch.setattr(record_writer.RecordWriter, "write", write_slowly)
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    for path in (tmp_path / metrics.FILE, *tmp_path.glob("events.*")):
        assert b"loss" in path.read_bytes()
    writer.close()


def test_scalars_of_several_calls_of_a_step_come_back(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path)
    writer.write_scalars(5, {"loss": 1.0})
    writer.write_scalars(5, {"eval/loss": 2.0})
    writer.close()
    for found in both(tmp_path):
        assert {name: steps.tolist() for name, (steps, _) in found.items()} == {"eval/loss": [5], "loss": [5]}


def tensors(workdir: Path, tag: str) -> list[np.ndarray]:
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    accumulator = event_accumulator.EventAccumulator(os.fspath(workdir)).Reload()
    return [tensor_util.make_ndarray(event.tensor_proto) for event in accumulator.Tensors(tag)]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_as_png(tmp_path: Path, channels: int) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 4, 5, channels), dtype=np.uint8)
    writer = metrics.Writer(tmp_path)
    writer.write_images(2, {"samples": batch})
    writer.close()
    (tensor,) = tensors(tmp_path, "samples")
    assert tensor[:2].tolist() == [b"5", b"4"]  # width and height
    for image, content in zip(batch, tensor[2:], strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))).reshape(image.shape), image)


@pytest.mark.parametrize("batch", [np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)])
def test_images_of_another_kind_are_refused(tmp_path: Path, batch: np.ndarray) -> None:
    writer = metrics.Writer(tmp_path)
    with pytest.raises(ValueError, match=r"images 'samples' are .*; give uint8 \[n, h, w, c\]"):
        writer.write_images(1, {"samples": batch})
    writer.close()


def test_texts_come_back(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path)
    writer.write_texts(0, {"config": "# Größe\n`seed = 0`"})
    writer.close()
    (tensor,) = tensors(tmp_path, "config")
    assert tensor.item().decode() == "# Größe\n`seed = 0`"


def test_hyperparameters_come_back_with_their_types(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.hparams import metadata

    writer = metrics.Writer(tmp_path)
    writer.write_hparams({"lr": 1e-3, "steps": 5, "name": "punks", "flip": True, "levels": [1, 2]})
    writer.close()
    accumulator = event_accumulator.EventAccumulator(os.fspath(tmp_path)).Reload()
    content = accumulator.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    assert (found["lr"].number_value, found["steps"].number_value) == (1e-3, 5)
    assert (found["name"].string_value, found["flip"].bool_value) == ("punks", True)
    assert found["levels"].string_value == "[1, 2]"


def test_what_the_event_files_do_not_hold_is_refused(tmp_path: Path) -> None:
    writer = events.EventWriter(os.fspath(tmp_path))
    with pytest.raises(NotImplementedError, match=r"videos are not written; use animation\.write"):
        writer.write_videos(1, {})
    with pytest.raises(NotImplementedError, match="raw summaries are not written; use scalars"):
        writer.write_summaries(1, {"a": np.zeros(1)})
    writer.close()


def test_other_processes_only_log(tmp_path: Path) -> None:
    writer = metrics.Writer(tmp_path / "run", logs_only=True)
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    writer.close()
    assert not (tmp_path / "run").exists()


def test_a_new_file_is_named_behind_those_of_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_wait_for_a_new_second", WAIT)
    for start in (0, 1, 2):
        write(tmp_path, range(start + 1, start + 2), start=start)
    seconds = {path.name.split(".")[3] for path in tmp_path.glob("events.out.tfevents.*")}
    assert len(seconds) == 3


WITHOUT_TENSORFLOW = """
import sys
from ddpm_jax import metrics
writer = metrics.Writer(sys.argv[1])
from clu import periodic_actions
progress = periodic_actions.ReportProgress(num_train_steps=4, every_steps=1, writer=writer._events)
for step in range(1, 5):
    writer.write_scalars(step, {"loss": 1.0})
    progress(step)
writer.close()
assert "tensorflow" not in sys.modules and not any(name.startswith("tensorflow.") for name in sys.modules)
print(sorted(metrics.read_events(sys.argv[1])))
"""


def test_clu_works_without_tensorflow(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TENSORFLOW, str(tmp_path)], capture_output=True, text=True
    )
    assert ran.stdout.strip() == "['loss', 'steps_per_sec', 'uptime']", ran.stderr


@pytest.mark.parametrize(
    ("step", "rate", "line"),
    [
        (1200, 8.1, "step 1200/5000 (24%)  loss 0.0312  8.1 steps/s  7:49 left"),
        (5000, 8.1, "step 5000/5000 (100%)  loss 0.0312  8.1 steps/s  0:00 left"),
        (0, 0.5, "step 0/5000 (0%)  loss 0.0312  0.5 steps/s  2:46:40 left"),
        (0, 0.0, "step 0/5000 (0%)  loss 0.0312  0 steps/s  time left unknown"),
    ],
)
def test_progress_is_one_line(step: int, rate: float, line: str) -> None:
    assert metrics.format_progress(step, 5000, 0.0312, rate) == line
