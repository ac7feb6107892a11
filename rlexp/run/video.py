"""Videos: an mp4 in the run's folder, and an animated picture in TensorBoard."""

import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rlexp.extras import require
from rlexp.files import storage_errors
from rlexp.run.trust import require_no_links_in

MOST_SHOWN, WIDEST = 150, 320  # pictures in TensorBoard's, and their width in pixels


def require_encoder(setting: str) -> Any:
    """The library that writes mp4; a ConfigError that names the setting and the extra if it is missing."""
    require("imageio_ffmpeg", "video", setting)
    return require("imageio.v2", "video", setting)


class Film(Protocol):
    """Pictures (H, W, 3) of uint8, and their rate, which is known once the first is there."""

    fps: float

    def __iter__(self) -> Iterator[np.ndarray]:
        """The pictures."""


def write_mp4(path: Path, film: Film) -> list[np.ndarray]:
    """Write pictures as they come, and return those that TensorBoard shows; the file appears when it is whole."""
    imageio = require_encoder("video")
    shown: list[np.ndarray] = []
    every = 1
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = None
        try:
            for number, picture in enumerate(film):
                if writer is None:
                    options = {"codec": "libx264", "macro_block_size": 1, "pixelformat": "yuv420p", "quality": 7}
                    writer = imageio.get_writer(temporary, format="FFMPEG", fps=film.fps, **options)
                writer.append_data(_even(picture))
                if number % every == 0:
                    shown.append(_small(picture))
                if len(shown) > 2 * MOST_SHOWN:
                    shown, every = shown[::2], 2 * every
                last = picture
            if writer is not None and number % every:
                shown.append(_small(last))
        except BaseException:
            if writer is not None:
                writer.close()
            temporary.unlink(missing_ok=True)
            raise
        if writer is None:
            raise ValueError("there are no pictures")
        writer.close()
        temporary.replace(path)
    step = -(-len(shown) // MOST_SHOWN)
    return shown[::step] + ([shown[-1]] if (len(shown) - 1) % step else [])


def _even(picture: np.ndarray) -> np.ndarray:
    """A picture whose sides are even, as H.264 wants: the last row or column is repeated."""
    return np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)], mode="edge")


def _small(picture: np.ndarray) -> np.ndarray:
    step = -(-picture.shape[1] // WIDEST)
    return np.ascontiguousarray(picture[::step, ::step])


def write_video(folder: Path, name: str, step: int, film: Film) -> Path:
    """Write videos/<name>.mp4 in a run's folder, and an event file beside it, at this step; older ones give way."""
    path = folder / "videos" / f"{name}.mp4"
    require_no_links_in(path.parent)
    shown = write_mp4(path, film)
    for old in path.parent.glob(f"events.out.tfevents.*.{name}"):
        old.unlink()
    events = EventFileWriter(str(path.parent.absolute()), filename_suffix=f".{name}")
    events.add_event(Event(wall_time=time.time(), step=step, summary=animated(name.partition("-")[0], shown, film.fps)))
    events.close()
    return path


def remove_after(folder: Path, steps: Mapping[int, int]) -> None:
    """Remove videos of training after the steps of a checkpoint, by seed: they will be made again."""
    for path in (folder / "videos").glob("*seed_*-step_*"):
        found = re.search(r"seed_(\d+)-step_(\d+)", path.name)
        if found and int(found[2]) > steps.get(int(found[1]), -1):
            path.unlink()


def animated(tag: str, pictures: Sequence[np.ndarray], fps: float) -> Summary:
    """An animated picture for TensorBoard's IMAGES."""
    imageio, data = require_encoder("video"), io.BytesIO()
    imageio.mimsave(data, pictures, format="GIF", duration=1000 / fps, loop=0)
    height, width = pictures[0].shape[:2]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])
