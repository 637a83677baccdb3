"""Media files: write frames as MP4, GIF or a PNG filmstrip; read images and videos.

Writers enlarge by nearest neighbour, so that single pixels of a game stay visible. They write
aside and rename, so an existing file is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path

import av
import numpy as np
from einops import repeat
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from worldsim.system.files import written_aside

LARGE = 256  # pixels of the shorter side, from which no detail is one pixel wide
GIF_TICK = 0.01  # seconds: the format's unit of time
GIF_MAX_FPS = 50.0  # viewers slow down delays below two ticks
GIF_COLOURS = 255  # the 256th entry means "unchanged since the previous frame"


def write_mp4(
    path: str | PathLike[str], frames: Iterable[np.ndarray], fps: float, scale: int = 1
) -> Path:
    """Write frames as H.264 in an MP4, close to lossless (crf 12).

    Small frames keep colour at full resolution (yuv444p); halved, a detail of one pixel vanishes.
    With an even ``scale`` of 4 or more, or from 256 pixels on, halving loses almost nothing. Such
    files use yuv420p, which every player supports.

    Args:
        path: The file to write; its folder is created.
        frames: ``uint8`` arrays (h w c) of one size, c of 1 or 3; read one by one.
        fps: Frames per second, above 0.
        scale: Pixels along each side that one source pixel becomes, at least 1.

    Returns:
        The path written.

    Raises:
        ValueError: If there are no frames, a frame is not ``uint8`` (h w c), sizes differ, or
            ``fps`` or ``scale`` is out of range.
    """
    first, frames = _peek(_checked(frames, fps, scale))
    # H.264 with halved colours needs even sides.
    height, width = (scale * size for size in first.shape[:2])
    even_height, even_width = height + height % 2, width + width % 2
    is_coarse = (scale >= 4 and scale % 2 == 0) or min(first.shape[:2]) >= LARGE
    pixel_format = "yuv420p" if is_coarse else "yuv444p"
    with (
        written_aside(path) as aside,
        av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("h264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = even_width, even_height, pixel_format
        stream.options = {"crf": "12", "preset": "medium"}
        padding = ((0, even_height - height), (0, even_width - width), (0, 0))
        for frame in frames:
            image = np.pad(_enlarge(frame, scale), padding, mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return Path(path)


def read_frames(path: str | PathLike[str], last: int = 1) -> np.ndarray:
    """Read an image, or the last frames of a video, in colour and upright.

    Args:
        path: A file in any format that Pillow or FFmpeg reads.
        last: Frames to read from the end of a video, at least 1; all of a shorter video.

    Returns:
        ``uint8`` (t h w 3), t of 1 for an image.

    Raises:
        ValueError: If the file does not exist or is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no image or video {path}")
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[None].copy()
    except UnidentifiedImageError:
        pass
    try:
        with av.open(str(path)) as container:
            decoded = container.decode(video=0)
            frames = deque((f.to_ndarray(format="rgb24") for f in decoded), maxlen=last)
    except (av.FFmpegError, IndexError) as error:  # IndexError: no video stream
        raise ValueError(f"{path} is neither a readable image nor a readable video") from error
    if not frames:
        raise ValueError(f"there is no frame in {path}")
    return np.stack(frames)


def write_gif(
    path: str | PathLike[str], frames: Iterable[np.ndarray], fps: float, scale: int = 1
) -> Path:
    """Write frames as a looping GIF with one palette.

    Delays are integers in hundredths of a second. They vary by one, so that the total duration is
    exact. Above 50 frames per second, frames are skipped.

    Args:
        path: The file to write; its folder is created.
        frames: ``uint8`` arrays (h w c) of one size, c of 1 or 3.
        fps: Frames per second, above 0.
        scale: Pixels along each side that one source pixel becomes, at least 1.

    Returns:
        The path written.

    Raises:
        ValueError: As :func:`write_mp4`.
    """
    kept = list(_peek(_checked(frames, fps, scale))[1])
    stride = int(np.ceil(fps / GIF_MAX_FPS))
    kept = kept[::stride]
    ticks = np.round(np.arange(len(kept) + 1) * stride / fps / GIF_TICK).astype(int)
    palette = _shared_palette(kept)
    images = [
        Image.fromarray(_enlarge(frame, 1)).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in kept
    ]
    size = (kept[0].shape[1] * scale, kept[0].shape[0] * scale)
    images = [image.resize(size, Image.Resampling.NEAREST) for image in images]
    with written_aside(path) as aside:
        images[0].save(
            aside,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=[int(delay) * 10 for delay in np.diff(ticks)],
            loop=0,
            optimize=False,
        )
    return Path(path)


def filmstrip(
    rows: Sequence[np.ndarray],
    path: str | PathLike[str],
    scale: int = 2,
    labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Path:
    """Write rows of frames as one PNG, to compare them by eye.

    Args:
        rows: ``uint8`` arrays (t h w c) of one height and width, c of 1 or 3. Lengths may differ.
        path: The file to write; its folder is created.
        scale: Pixels along each side that one source pixel becomes, at least 1.
        labels: A name for each row, at its left; none by default.
        column_labels: A name for each column, above it; none by default.

    Returns:
        The path written.

    Raises:
        ValueError: If a row is missing or empty, frames are not ``uint8`` (h w c) of one size, or
            labels and rows (columns) differ in number.
    """
    if not rows:
        raise ValueError("a filmstrip needs at least one row of frames, got none")
    num_columns = max(len(row) for row in rows)
    for name, given, expected in (
        ("labels", labels, len(rows)),
        ("column_labels", column_labels, num_columns),
    ):
        if given and len(given) != expected:
            raise ValueError(f"{name} must have {expected} entries, got {len(given)}: {given}")
    strips = [[_enlarge(frame, scale) for frame in _checked(row, 1.0, scale)] for row in rows]
    sizes = {image.shape for strip in strips for image in strip}
    if len(sizes) != 1 or not all(strips):
        raise ValueError(
            f"all rows need frames of one size, got {sorted(sizes)} (and no empty row)"
        )
    height, width, _ = sizes.pop()

    # Labels need room at the left and above; without them a thin border is enough.
    font = ImageFont.load_default(size=14)
    gap = 4
    left = max((int(font.getlength(label)) + 16 for label in labels), default=gap)
    top = 22 if column_labels else gap
    canvas = Image.new(
        "RGB",
        (left + num_columns * (width + gap), top + len(rows) * (height + gap)),
        (24, 24, 28),
    )
    draw = ImageDraw.Draw(canvas)
    ink = (225, 225, 230)
    for column, label in enumerate(column_labels):
        x = left + column * (width + gap) + width // 2
        draw.text((x, top // 2), label, ink, font, anchor="mm")
    for index, strip in enumerate(strips):
        y = top + index * (height + gap)
        if labels:
            draw.text((8, y + height // 2), labels[index], ink, font, anchor="lm")
        for column, image in enumerate(strip):
            canvas.paste(Image.fromarray(image), (left + column * (width + gap), y))
    with written_aside(path) as aside:
        canvas.save(aside, format="PNG", optimize=True)
    return Path(path)


def _checked(frames: Iterable[np.ndarray], fps: float, scale: int) -> Iterator[np.ndarray]:
    """Yield the frames; raise ValueError at the first that is not ``uint8`` (h w c) of one size."""
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps must be above 0, got {fps}")
    if scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}")
    shape = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3):
            raise ValueError(
                f"frames must be uint8 (h w c) with 1 or 3 channels, "
                f"got {frame.dtype} {frame.shape} at frame {index}"
            )
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(
                f"all frames must be of one size, got {frame.shape} at frame {index} after {shape}"
            )
        yield frame


def _peek(frames: Iterator[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Return the first frame, and an iterator over all frames."""
    first = next(frames, None)
    if first is None:
        raise ValueError("frames is empty: give at least one frame to write")
    return first, chain([first], frames)


def _enlarge(frame: np.ndarray, scale: int) -> np.ndarray:
    """Return a frame (h w c) as (h w 3), ``scale`` times as large, by nearest neighbour."""
    colours = 3 if frame.shape[2] == 1 else 1
    return repeat(
        frame, "h w c -> (h sh) (w sw) (c copies)", sh=scale, sw=scale, copies=colours
    ).copy()


def _shared_palette(frames: Sequence[np.ndarray]) -> Image.Image:
    """Choose one palette from up to 64 frames, so that still parts do not flicker."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, 64).astype(int))
    montage = np.concatenate([_enlarge(frames[index], 1) for index in chosen])
    # A median cut favours common colours: a small ball would turn grey.
    return Image.fromarray(montage).quantize(GIF_COLOURS, Image.Quantize.FASTOCTREE)
