"""Video pipelines of diffusers: load them, and generate windows of frames.

A model's index names its class, and the signature of that class its arguments. What no signature
has is in `worldsim.video.families`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from worldsim.frame_size import fit_frame
from worldsim.system.devices import is_out_of_memory
from worldsim.system.files import one_line
from worldsim.video.families import find_family
from worldsim.video.hub import (
    check_no_code,
    check_weights_fit,
    class_of,
    fetch_model,
    precision_on,
    quiet_libraries,
)


class VideoPipeline:
    """A video pipeline of diffusers that generates windows of frames.

    Args:
        model: A folder written by ``save_pretrained``, or an id on the Hub.
        dtype: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"auto"``: bf16 on a GPU that supports it,
            fp16 on other GPUs, fp32 on a CPU.
        offload: What leaves the GPU's memory while it is idle: ``"none"``, ``"model"`` (networks:
            slightly slower), ``"sequential"`` (layers: least memory, slow) or ``"auto"``:
            ``"model"`` on a GPU.
        variant: Variant of the weights, such as ``"fp16"``, if the model's folder has several.
        tiled: Whether the autoencoder works tile by tile, which needs less memory.

    Attributes:
        name: The pipeline's class.
        family: The record of its family.
        fps: Frames per second of the videos that it was trained on.

    Raises:
        ValueError: If the model does not exist, cannot be fetched, makes no video, needs its own
            code, or does not fit into memory. If an option does not suit this machine.
        ModuleNotFoundError: If transformers or accelerate is missing (the extra ``video``).
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        offload: str = "auto",
        variant: str | None = None,
        tiled: bool = False,
    ) -> None:
        import accelerate  # noqa: F401  # without it diffusers takes twice the memory
        import transformers  # noqa: F401  # without it diffusers has no video pipeline at all

        # Check the model's class, code and size before its weights are read.
        quiet_libraries()
        folder = fetch_model(model, variant)
        self.name = class_of(folder)
        check_no_code(folder)
        self.family = find_family(self.name)
        self.fps = self.family.fps
        device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = precision_on(device, dtype)
        if offload == "auto":
            offload = "model" if device == "cuda" else "none"
        if offload != "none" and device == "cpu":
            raise ValueError(
                f"--offload {offload} keeps networks out of a GPU's memory, and this machine has "
                "no GPU: leave it out"
            )
        check_weights_fit(folder, variant, device, precision, offload)
        dtypes: Any = precision
        if self.family.single_precision_vae and precision != torch.float32:
            dtypes = {"default": precision, "vae": torch.float32}
        try:
            with explained_memory():
                pipe = DiffusionPipeline.from_pretrained(
                    folder,
                    dtype=dtypes,
                    variant=variant,
                    use_safetensors=True,
                    trust_remote_code=False,
                )
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the model in {folder} cannot be read ({one_line(error)}); fetch or write it again"
            ) from error
        if offload == "model":
            pipe.enable_model_cpu_offload()
        elif offload == "sequential":
            pipe.enable_sequential_cpu_offload()
        else:
            with explained_memory():
                pipe.to(device)
        if tiled:
            if not hasattr(pipe.vae, "enable_tiling"):
                raise ValueError(f"the autoencoder of {self.name} cannot work in tiles: leave it")
            pipe.vae.enable_tiling()
        self._use(pipe)

    def _use(self, pipe: DiffusionPipeline) -> None:
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe
        self.name = type(pipe).__name__
        self._parameters = inspect.signature(pipe.__call__).parameters

    def takes(self, argument: str) -> bool:
        """Whether the pipeline takes an argument."""
        return argument in self._parameters

    def default(self, argument: str) -> Any:
        """Return the default of an argument; None if it has none."""
        value = self._parameters[argument].default if self.takes(argument) else None
        return None if value is inspect.Parameter.empty else value

    @property
    def takes_image(self) -> bool:
        """Whether a window can begin from an image."""
        return self.takes("image")

    @property
    def needs_image(self) -> bool:
        """Whether a window must begin from an image."""
        if self.name.endswith("ImageToVideoPipeline"):  # LTX's signature has it as optional
            return True
        return self.takes_image and self._parameters["image"].default is inspect.Parameter.empty

    @property
    def takes_video(self) -> bool:
        """Whether a window can begin from several frames."""
        return self.takes("video") and self.takes("frame_index")

    @property
    def stride(self) -> int:
        """Windows have a multiple of this many frames, plus one."""
        names = ("temporal_compression_ratio", "scale_factor_temporal", "temporal_scale_factor")
        found = (getattr(self.pipe, f"vae_{name}", None) for name in names)
        stride = next((int(value) for value in found if value), 1)
        return stride * self.family.frames_decoded

    @property
    def num_frames(self) -> int:
        """Frames of a window by default."""
        pipe = self.pipe
        configs = [
            getattr(pipe, part).config for part in ("transformer", "unet") if hasattr(pipe, part)
        ]
        found = [self.default("num_frames")]
        found += [config.get(key) for config in configs for key in ("sample_frames", "num_frames")]
        return next((int(value) for value in found if value), 49)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame by default."""
        size = tuple(self.default(side) for side in ("height", "width"))
        if None in size:  # CogVideoX and Mochi keep them elsewhere
            pipe = self.pipe
            size = tuple(getattr(pipe, f"default_{side}", None) for side in ("height", "width"))
        if None in size:
            config = self.pipe.transformer.config
            factor = self.pipe.vae_scale_factor_spatial
            size = config.sample_height * factor, config.sample_width * factor
        return int(size[0]), int(size[1])

    def frame_size_for(self, context: NDArray[np.uint8] | None) -> tuple[int, int]:
        """The default size, turned upright if the first frames (t h w c) are upright."""
        height, width = self.frame_size
        is_upright = context is not None and context.shape[1] > context.shape[2]
        return (width, height) if is_upright and height < width else (height, width)

    def check_num_frames(self, num_frames: int) -> None:
        """Raise ValueError for a number of frames that the pipeline would change."""
        short = (num_frames - 1) // self.stride * self.stride + 1
        if num_frames < 1 or short != num_frames:
            around = f"{max(1, short)} or {max(1, short) + self.stride}"
            raise ValueError(
                f"{self.name} makes {self.stride}k + 1 frames at a time, got --num-frames "
                f"{num_frames}: take {around}"
            )

    def can_continue(self) -> bool:
        """Whether a window can continue frames, with this class or its sibling."""
        return self.takes_image or self.sibling is not None

    @property
    def sibling(self) -> str | None:
        """The class that continues frames with the same weights, if there is one."""
        return self.family.sibling(self.name, self.pipe.config)

    @property
    def continues_video(self) -> bool:
        """Whether a window can continue several frames, with this class or its sibling."""
        if self.sibling is None:
            return self.takes_video
        call = getattr(diffusers, self.sibling).__call__
        return {"video", "frame_index"} <= set(inspect.signature(call).parameters)

    def become_sibling(self) -> None:
        """Become the sibling, which uses the same weights in the same place."""
        assert self.sibling is not None
        self._use(getattr(diffusers, self.sibling).from_pipe(self.pipe))

    def generate(
        self,
        context: NDArray[np.uint8] | None = None,
        *,
        num_frames: int,
        frame_size: tuple[int, int],
        num_inference_steps: int,
        seed: int,
        on_step: Callable[[], None] | None = None,
        **options: Any,
    ) -> NDArray[np.uint8]:
        """Generate one window of frames.

        Args:
            context: Frames to begin from (t h w c), of any size; the pipeline uses the first ones,
                as many as it takes. None begins from noise.
            num_frames: Frames of the window, those of the context included.
            frame_size: Height and width; frames of the context are cropped to it.
            num_inference_steps: Denoising steps.
            seed: Seed of the noise.
            on_step: Called after every denoising step, for a progress bar.
            options: Other arguments of the pipeline's class; None leaves its default.

        Returns:
            ``uint8`` (t h w c).

        Raises:
            ValueError: If the pipeline does not take an argument, memory does not suffice, or the
                frames are not finite.
        """
        self.check_num_frames(num_frames)
        requested = {name: value for name, value in options.items() if value is not None}
        unknown = [name for name in requested if not self.takes(name)]
        if unknown:
            raise ValueError(f"{self.name} has no {', '.join(unknown)}: leave it out")
        if context is None and self.needs_image:
            raise ValueError(f"{self.name} begins from an image: give one with --image")
        # Give the context as a video if the class takes one, otherwise its first frame.
        if context is not None:
            images = [Image.fromarray(fit_frame(frame, frame_size)) for frame in context]
            if len(images) > 1 and self.takes_video:
                whole = (len(images) - 1) // self.stride * self.stride + 1
                # A list of one video: of a flat list the pipeline would use only the first image.
                requested["video"] = [images[:whole]]
            elif self.takes_image:
                requested["image"] = images[0]
            else:
                raise ValueError(f"{self.name} takes text only, not an image")
        if on_step is not None and self.takes("callback_on_step_end"):

            def step(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict:
                on_step()
                return tensors

            requested["callback_on_step_end"] = step
        with explained_memory(), torch.inference_mode():
            frames = self.pipe(
                height=frame_size[0],
                width=frame_size[1],
                num_frames=num_frames,
                num_inference_steps=num_inference_steps,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
                **requested,
            ).frames[0]
        if not np.isfinite(frames).all():
            raise ValueError(
                f"{self.name} generated values that are not finite: its weights overflow in this "
                "precision, so try --dtype bf16 or fp32"
            )
        return np.stack([np.asarray(p) for p in self.pipe.numpy_to_pil(np.asarray(frames))])


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn an out-of-memory error into a sentence with a remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"too little memory ({one_line(error)}): take fewer --num-frames or a smaller "
            "--frame-size, --tiled, a smaller --decode-chunk-size where there is one, or "
            "--offload sequential on a GPU"
        ) from error
