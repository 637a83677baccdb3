"""Video pipelines of diffusers, of whatever class: found, loaded, and asked for windows of frames.

A model's own index says of which class it is, and the signature of that class what it can be
asked for.
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

from worldsim.devices import is_out_of_memory
from worldsim.files import one_line
from worldsim.pretrained import (
    check_no_code,
    check_weights_fit,
    class_of,
    fetch_model,
    precision_on,
    quiet_libraries,
)
from worldsim.video import fit_frame
from worldsim.video_families import find_family


class VideoPipeline:
    """A video pipeline of diffusers, asked for windows of frames.

    Args:
        model: A folder written by ``save_pretrained``, or an id on the Hub.
        dtype: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"auto"``: bf16 on a GPU that has it, fp16 on
            one that has not, fp32 on a CPU.
        offload: What of the model waits in the computer's own memory while it does not work:
            ``"none"``, ``"model"`` (whole networks: little slower), ``"sequential"`` (layer by
            layer: the least memory, slow) or ``"auto"``: ``"model"`` on a GPU.
        variant: Of the weights, such as ``"fp16"``, where the model's folder has several.
        tiled: Whether the autoencoder works tile by tile, which needs less memory.

    Attributes:
        name: The pipeline's class.
        family: What it has in common with others.
        fps: Frames a second of the videos that it was trained on.

    Raises:
        ValueError: If there is no such model, it cannot be had, makes no video, wants code of its
            own run, does not fit into the memory, or an option does not suit this machine.
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
        """Whether the pipeline can be asked for this."""
        return argument in self._parameters

    def default(self, argument: str) -> Any:
        """What the pipeline takes where this is not said; None where it does not tell."""
        value = self._parameters[argument].default if self.takes(argument) else None
        return None if value is inspect.Parameter.empty else value

    @property
    def takes_image(self) -> bool:
        """Whether a window can begin from a picture."""
        return self.takes("image")

    @property
    def needs_image(self) -> bool:
        """Whether a window must begin from a picture."""
        if self.name.endswith("ImageToVideoPipeline"):  # LTX's says that it is optional
            return True
        return self.takes_image and self._parameters["image"].default is inspect.Parameter.empty

    @property
    def takes_video(self) -> bool:
        """Whether a window can begin from several frames."""
        return self.takes("video") and self.takes("frame_index")

    @property
    def stride(self) -> int:
        """A window has a multiple of this many frames, and one."""
        names = ("temporal_compression_ratio", "scale_factor_temporal", "temporal_scale_factor")
        found = (getattr(self.pipe, f"vae_{name}", None) for name in names)
        stride = next((int(value) for value in found if value), 1)
        return stride * self.family.frames_decoded

    @property
    def num_frames(self) -> int:
        """Frames of a window where nothing else is said."""
        pipe = self.pipe
        configs = [
            getattr(pipe, part).config for part in ("transformer", "unet") if hasattr(pipe, part)
        ]
        found = [self.default("num_frames")]
        found += [config.get(key) for config in configs for key in ("sample_frames", "num_frames")]
        return next((int(value) for value in found if value), 49)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame where nothing else is said."""
        size = tuple(self.default(side) for side in ("height", "width"))
        if None in size:  # what CogVideoX and Mochi say elsewhere
            pipe = self.pipe
            size = tuple(getattr(pipe, f"default_{side}", None) for side in ("height", "width"))
        if None in size:
            config = self.pipe.transformer.config
            factor = self.pipe.vae_scale_factor_spatial
            size = config.sample_height * factor, config.sample_width * factor
        return int(size[0]), int(size[1])

    def frame_size_for(self, context: NDArray[np.uint8] | None) -> tuple[int, int]:
        """The default size, upright where the frames to begin from (t h w c) are."""
        height, width = self.frame_size
        is_upright = context is not None and context.shape[1] > context.shape[2]
        return (width, height) if is_upright and height < width else (height, width)

    def check_num_frames(self, num_frames: int) -> None:
        """Raise ValueError for a number of frames that the pipeline would not keep to."""
        short = (num_frames - 1) // self.stride * self.stride + 1
        if num_frames < 1 or short != num_frames:
            around = f"{max(1, short)} or {max(1, short) + self.stride}"
            raise ValueError(
                f"{self.name} makes {self.stride}k + 1 frames at a time, got --num-frames "
                f"{num_frames}: take {around}"
            )

    def can_continue(self) -> bool:
        """Whether a window can go on from frames, with these weights or another class of them."""
        return self.takes_image or self.sibling is not None

    @property
    def sibling(self) -> str | None:
        """The class that goes on from frames with the same weights, where there is one."""
        return self.family.sibling(self.name, self.pipe.config)

    @property
    def continues_video(self) -> bool:
        """Whether a window can go on from several frames, with this class or its sibling."""
        if self.sibling is None:
            return self.takes_video
        call = getattr(diffusers, self.sibling).__call__
        return {"video", "frame_index"} <= set(inspect.signature(call).parameters)

    def become_sibling(self) -> None:
        """Turn into the class that goes on from frames, of the same weights in the same place."""
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
        """Make one window of frames.

        Args:
            context: Frames to begin from (t h w c), of any size: as many of them as the pipeline
                takes, the first ones; None to begin from nothing.
            num_frames: Frames to make, the given ones among them.
            frame_size: Height and width; given frames are cut to this shape.
            num_inference_steps: Denoising steps.
            seed: Of the noise.
            on_step: Called after every denoising step, for a progress bar.
            options: What the pipeline's class takes beside these; what is None is left to it.

        Returns:
            ``uint8`` (t h w c).

        Raises:
            ValueError: If the pipeline cannot be asked for this, memory does not suffice, or what
                it makes is no picture.
        """
        self.check_num_frames(num_frames)
        asked = {name: value for name, value in options.items() if value is not None}
        unknown = [name for name in asked if not self.takes(name)]
        if unknown:
            raise ValueError(f"{self.name} has no {', '.join(unknown)}: leave it out")
        if context is None and self.needs_image:
            raise ValueError(f"{self.name} begins from a picture: give one with --image")
        if context is not None:
            pictures = [Image.fromarray(fit_frame(frame, frame_size)) for frame in context]
            if len(pictures) > 1 and self.takes_video:
                whole = (len(pictures) - 1) // self.stride * self.stride + 1
                # Given as the one video of a list: of a bare list it would take the first picture.
                asked["video"] = [pictures[:whole]]
            elif self.takes_image:
                asked["image"] = pictures[0]
            else:
                raise ValueError(f"{self.name} begins from words alone, not from a picture")
        if on_step is not None and self.takes("callback_on_step_end"):

            def step(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict:
                on_step()
                return tensors

            asked["callback_on_step_end"] = step
        with explained_memory(), torch.inference_mode():
            frames = self.pipe(
                height=frame_size[0],
                width=frame_size[1],
                num_frames=num_frames,
                num_inference_steps=num_inference_steps,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
                **asked,
            ).frames[0]
        if not np.isfinite(frames).all():
            raise ValueError(
                f"{self.name} made numbers that are no pictures (not finite): its weights "
                "overflow in this precision, so try --dtype bf16 or fp32"
            )
        return np.stack([np.asarray(p) for p in self.pipe.numpy_to_pil(np.asarray(frames))])


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn running out of memory into a sentence that says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"too little memory ({one_line(error)}): take fewer --num-frames or a smaller "
            "--frame-size, --tiled, a smaller --decode-chunk-size where there is one, or "
            "--offload sequential on a GPU"
        ) from error
