"""TensorBoard event files without TensorFlow: written in CLU's terms, cut back at a resume, set aside, and read."""

import io
import os
import pathlib
import time
import types
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from ddpm_jax import images as pictures

PathLike = str | os.PathLike[str]


class EventWriter:
    """CLU's SummaryWriter without TensorFlow: the same calls, written by TensorBoard's own EventFileWriter."""

    def __init__(self, logdir: str):
        from tensorboard.summary.writer import event_file_writer

        _wait_for_a_new_second(pathlib.Path(logdir))
        self._writer = event_file_writer.EventFileWriter(logdir)

    def write_summaries(self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Only `{"session": "start"}` is understood: TensorBoard drops what earlier files say of `step` and later."""
        if values or metadata != {"session": "start"}:
            raise NotImplementedError("raw summaries are not written; use scalars, images, texts or hparams")
        session = _protos().SessionLog
        self._add(step, session_log=session(status=session.START))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write float32 scalars."""
        from tensorboard.plugins.scalar import metadata

        about = metadata.create_summary_metadata("", "")
        self._add_tensors(step, {name: np.float32(value) for name, value in scalars.items()}, about)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Write uint8 images [n, h, w, c] as PNG."""
        from tensorboard.plugins.image import metadata

        for name, array in images.items():
            size = [str(array.shape[2]).encode(), str(array.shape[1]).encode()]
            values = np.array([*size, *(_png(image) for image in array)], object)
            self._add_tensors(step, {name: values}, metadata.create_summary_metadata("", ""))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Write Markdown texts."""
        from tensorboard.plugins.text import metadata

        tensors = {name: np.array(text.encode(), object) for name, text in texts.items()}
        self._add_tensors(step, tensors, metadata.create_summary_metadata("", ""))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Write the settings for the HPARAMS page; its summary API imports TensorFlow, so the protos are built here."""
        from tensorboard.plugins.hparams import metadata

        start = _protos().SessionStartInfo(start_time_secs=time.time())
        for name, value in hparams.items():
            field = start.hparams[name]
            if isinstance(value, bool):
                field.bool_value = value
            elif isinstance(value, int | float):
                field.number_value = value
            else:
                field.string_value = str(value)
        about = metadata.create_summary_metadata(_protos().HParamsPluginData(session_start_info=start))
        self._add_tensors(0, {metadata.SESSION_START_INFO_TAG: np.zeros(0, np.float32)}, about)

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
        """Not written."""
        raise NotImplementedError("videos are not written; use animation.write")

    write_audios = write_histograms = write_videos

    def flush(self) -> None:
        """Return when everything is on disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _add_tensors(self, step: int, tensors: Mapping[str, Any], metadata: Any) -> None:
        from tensorboard.util import tensor_util

        summary = _protos().Summary
        values = [
            summary.Value(tag=name, tensor=tensor_util.make_tensor_proto(tensor), metadata=metadata)
            for name, tensor in tensors.items()
        ]
        self._add(step, summary=summary(value=values))

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(_protos().Event(step=step, wall_time=time.time(), **content))


def cut_back(logdir: PathLike, step: int) -> None:
    """Cut the event files of a workdir before their first event later than `step`, and before a damaged one.

    A session start (see `write_summaries`) hides orphaned events from TensorBoard, but not from EventAccumulator.
    """
    for path in files(logdir):
        with open(path, "rb+") as file:
            file.truncate(_end_of_step(file, step))


def files(logdir: PathLike) -> list[pathlib.Path]:
    """Return the event files of a workdir, the oldest first: their names say the second."""
    return sorted(pathlib.Path(logdir).glob("events.out.tfevents.*"))


def _end_of_step(file: BinaryIO, step: int) -> int:
    """Return where the whole events up to `step` end; a record is its length [8 bytes], CRC [4], content, CRC [4]."""
    while True:
        begin = file.tell()
        length = _checked(file, 8)
        content = length and _checked(file, int.from_bytes(length, "little"))
        if content is None or _protos().Event.FromString(content).step > step:
            return begin


def _checked(file: BinaryIO, size: int) -> bytes | None:
    """Return the next `size` bytes, or None unless the masked CRC-32C behind them is theirs."""
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

    content, crc = file.read(size), file.read(4)
    return content if crc == pywrap_tensorflow.masked_crc32c(content).to_bytes(4, "little") else None


def read_scalars(logdir: PathLike) -> dict[str, list[tuple[int, float]]]:
    """Return name -> [(step, value), ...] as TensorBoard's EventAccumulator has the scalars."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(os.fspath(logdir), size_guidance={event_accumulator.TENSORS: 0})
    events.Reload()
    tags = events.Tags()[event_accumulator.TENSORS]
    scalars = [tag for tag in tags if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"]
    return {
        tag: [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in scalars
    }


def _protos() -> Any:
    """Return TensorBoard's messages; as `Any`, for they are made at import and no type checker sees them."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    return types.SimpleNamespace(**{**vars(plugin_data_pb2), **vars(summary_pb2), **vars(event_pb2)})


def _wait_for_a_new_second(logdir: pathlib.Path) -> None:
    """Wait until a new file, named by the second, is read after those that are there."""
    seconds = [path.name.split(".")[3] for path in files(logdir)]
    while seconds and max(seconds) == f"{int(time.time()):010}":
        time.sleep(0.02)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    pictures.to_pil(image).save(file, "PNG")
    return file.getvalue()
