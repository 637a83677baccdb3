"""Pictures: a folder of still images, read as episodes of one frame without actions."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from worldsim.data.captions import check_captions
from worldsim.data.episode import STEP_TYPES
from worldsim.data.episodes import Episodes
from worldsim.data.opening import PICTURES, list_pictures
from worldsim.data.rewards import RecordedRewards
from worldsim.frame_size import fit_frame
from worldsim.frames import UNKNOWN
from worldsim.game.config import GameConfig
from worldsim.system.files import check_regular, one_line, read_json, reading

CAPTIONS_FILE = "captions.json"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_BYTES = 2**29  # of decoded pictures in memory: 43,000 of 64x64 pixels
REMEDY = "delete it or replace it"

_NO_STEPS = {name: np.zeros(0, kind) for name, kind in STEP_TYPES.items()}


class Pictures(Episodes):
    """A folder of pictures: each is an episode of one frame, in the frame size of a game.

    Each picture is scaled to cover a frame, and its longer side is cropped. Nothing is known of
    what led to it: in a window, the frames before it are grey and all actions are unknown. So a
    world learns to draw it, not to repeat it.

    The folder may have ``captions.json``: one text for all pictures, or an object with texts by the
    names of files.

    Decoded pictures stay in memory, up to 512 MiB. It can be pickled, and read by several threads.

    Args:
        path: A folder with pictures (PNG, JPEG, WebP, BMP) of any size. Its folders are not read.
        game: The game whose frame size, channels and actions they share.

    Raises:
        ValueError: If there is no picture, one is not a regular file, or the captions are damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> game = GameConfig("worldsim/Pong-v0", action_meanings=("NOOP", "UP", "DOWN"))
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (640, 480)).save(f"{folder}/black.png")
        ...     windows = Pictures(folder, game).windows([0], [-2], 3)
        >>> windows.frames.shape, windows.valid.tolist(), windows.actions.tolist()
        ((1, 3, 64, 64, 3), [[False, False, True]], [[3, 3]])
    """

    pixels_before = UNKNOWN

    def __init__(self, path: str | os.PathLike[str], game: GameConfig) -> None:
        self.path = Path(path)
        self.game = game
        self.settings: dict[str, Any] = {}
        self._files = list_pictures(self.path)
        if not self._files:
            raise ValueError(f"there is no picture in {self.path} ({', '.join(PICTURES)})")
        for file in self._files:
            check_regular(file)
        self.episode_lengths = np.zeros(len(self._files), np.int64)
        self._captions: dict[int, str] = {}
        if (self.path / CAPTIONS_FILE).exists():
            names = [file.name for file in self._files]
            with reading(self.path / CAPTIONS_FILE, "correct or delete it") as file:
                kind = f"names of the folder's {len(names):,} pictures"
                self._captions = check_captions(read_json(file), names, kind)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._decoded: dict[int, np.ndarray] = {}
        self._num_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the decoded pictures."""
        kept = ("path", "game", "settings", "episode_lengths", "_files", "_captions")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def fingerprint(self, index: int) -> str:
        """Return the hash of the file's bytes, 16 hexadecimal digits.

        Raises:
            ValueError: If the file is gone.
        """
        with reading(self._files[index], REMEDY) as file:
            return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()

    def caption(self, index: int) -> str | None:
        """Return what a picture shows, in words, from ``captions.json``; None if it has none."""
        self._choose([index])
        return self._captions.get(index)

    def recorded_rewards(self) -> RecordedRewards:
        """Return figures of no reward."""
        return RecordedRewards(0.0, 0.0, 0.0)

    def _read(self, index: int, first: int, last: int, out: np.ndarray) -> None:
        frame = self._decoded.get(index)
        if frame is None:
            with reading(self._files[index], REMEDY) as file:
                frame = fit_frame(_decode(file), self.game.frame_size, self.game.channels)
            with self._lock:
                if self._num_bytes + frame.nbytes <= MAX_BYTES and index not in self._decoded:
                    self._decoded[index] = frame
                    self._num_bytes += frame.nbytes
        out[0] = frame

    def _steps(self, index: int) -> Mapping[str, np.ndarray]:
        return _NO_STEPS


def _decode(file: Path) -> np.ndarray:
    """A picture in colour and upright, ``uint8`` (h w 3)."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(one_line(error)) from error
