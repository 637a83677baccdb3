"""What a video costs: counted on fake tensors, and for real."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    UNetSpatioTemporalConditionModel,
    WanTransformer3DModel,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.memory import allocated_peak
from tests.tiny_pipelines import save_tiny_pipeline
from worldsim.video.cost import CostConfig, main, open_target, plan
from worldsim.video.families import PIPELINES
from worldsim.video.flops import Denoiser, count, make_inputs, pipeline_denoiser

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
TINY = {
    "CogVideoXPipeline": (
        CogVideoXTransformer3DModel,
        {**HEADS, "in_channels": 4, "out_channels": 4, "text_embed_dim": 8, "time_embed_dim": 8}
        | {"sample_width": 8, "sample_height": 8, "sample_frames": 9, "max_text_seq_length": 6}
        | {"use_rotary_positional_embeddings": True},
    ),
    "LTXPipeline": (
        LTXVideoTransformer3DModel,
        {**HEADS, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 32}
        | {"caption_channels": 8},
    ),
    "WanPipeline": (
        WanTransformer3DModel,
        {**HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 16}
        | {"ffn_dim": 64},
    ),
    "HunyuanVideoPipeline": (
        HunyuanVideoTransformer3DModel,
        {**HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1}
        | {"num_refiner_layers": 1, "text_embed_dim": 8, "pooled_projection_dim": 8}
        | {"rope_axes_dim": (4, 6, 6)},
    ),
    "MochiPipeline": (
        MochiTransformer3DModel,
        {**HEADS, "in_channels": 4, "text_embed_dim": 8, "pooled_projection_dim": 16}
        | {"time_embed_dim": 8},
    ),
    "StableVideoDiffusionPipeline": (
        UNetSpatioTemporalConditionModel,
        {"block_out_channels": (32, 64), "num_attention_heads": (2, 4), "layers_per_block": 1}
        | {"down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")}
        | {"up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")}
        | {"cross_attention_dim": 8, "projection_class_embeddings_input_dim": 96}
        | {"addition_time_embed_dim": 32},
    ),
}
TEXT = 6
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # of Mochi, at its rotations


@functools.cache
def shallow(name: str) -> Denoiser:
    """The published model but for its depth, which makes it slow to count."""
    layers = {"num_layers": 2}
    if name.startswith("Stable"):
        layers = {"layers_per_block": 1}
    elif name.startswith("Hunyuan"):
        layers["num_single_layers"] = 2
    return pipeline_denoiser(name, {"denoiser": layers})


def make(name: str, **changes: int) -> tuple[torch.nn.Module, Callable[[torch.nn.Module], None]]:
    """A tiny denoiser and a forward of three latent frames of 8x8."""
    kind, settings = TINY[name]
    torch.manual_seed(0)
    model = kind(**{**settings, **changes}).eval()

    def forward(one: torch.nn.Module) -> None:
        layout = PIPELINES[name].layout
        inputs = make_inputs(one, layout, 2, (3, 8, 8), TEXT, torch.float32)
        one(**inputs, return_dict=False)

    return model, forward


@pytest.mark.parametrize(
    ("name", "latent_frames", "tokens"),
    [
        ("CogVideoXPipeline", 13, 13 * 30 * 45),  # 49 frames of 480x720
        ("LTXPipeline", 21, 21 * 16 * 22),  # 161 frames of 512x704
        ("WanPipeline", 21, 21 * 30 * 52),  # 81 frames of 480x832
        ("MochiPipeline", 4, 4 * 30 * 53),  # 19 frames of 480x848
        ("HunyuanVideoPipeline", 33, 33 * 45 * 80),  # 129 frames of 720x1280
        ("StableVideoDiffusionPipeline", 25, 25 * 72 * 128),  # 25 frames of 576x1024
    ],
)
def test_tokens_of_the_published_models(name: str, latent_frames: int, tokens: int) -> None:
    denoiser = shallow(name)
    assert denoiser.latent_frames(denoiser.window) == latent_frames
    assert denoiser.frames(latent_frames) == denoiser.window
    assert denoiser.tokens(latent_frames) == tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "billions", "petaflops", "gigabytes"),
    [  # a window of the pipeline's own length and frame size
        ("StableVideoDiffusionPipeline", 1.52, 4.0, 11.4),
        ("CogVideoXPipeline", 1.69, 12.0, 5.0),
        ("LTXPipeline", 1.92, 3.7, 4.8),
        ("WanPipeline", 14.3, 168, 32.4),
        ("HunyuanVideoPipeline", 12.8, 603, 38.9),
        ("MochiPipeline", 10.0, 12.3, 21.4),
        ("CogVideoXImageToVideoPipeline", 5.57, None, None),
        ("WanImageToVideoPipeline", 16.4, None, None),
    ],
)
def test_the_published_models_completely(
    name: str, billions: float, petaflops: float | None, gigabytes: float | None
) -> None:
    denoiser = pipeline_denoiser(name)
    assert denoiser.parameters == pytest.approx(billions * 1e9, rel=0.01)
    assert denoiser.weights == pytest.approx(2 * denoiser.parameters, rel=0.06)  # bf16
    if petaflops is not None:
        latents = denoiser.latent_frames(denoiser.window)
        window = plan(denoiser, denoiser.forward(latents), latents, 1, 0)
        assert window.total / 1e15 == pytest.approx(petaflops, rel=0.02)
        assert window.memory / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_what_is_counted_without_running_is_what_a_run_counts(name: str) -> None:
    model, forward = make(name)
    real = count(lambda: forward(model))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        forward(model)  # PyTorch's own formulas alone, attention written out
    assert real.attention + real.rest == counter.get_total_flops()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        imagined = type(model).from_config(dict(model.config)).eval()
    counted = count(lambda: forward(imagined), fake)
    assert counted == real
    assert counted.attention > 0


@pytest.mark.parametrize("name", TINY)
def test_predicted_memory_is_what_is_measured(name: str) -> None:
    wide = {} if name.startswith("Stable") else {"num_attention_heads": 8}
    if name.startswith("LTX"):
        wide["cross_attention_dim"] = 128
    model, forward = make(name, **wide)
    allocated_peak(lambda: forward(model))  # what is kept from the first time on
    measured = allocated_peak(lambda: forward(model))
    assert count(lambda: forward(model)).activations == pytest.approx(measured, rel=0.15)


RESIDENT = """
import torch
from diffusers import WanTransformer3DModel
from worldsim.video.flops import count, make_inputs
wide = {"num_attention_heads": 8, "attention_head_dim": 64, "num_layers": 2, "ffn_dim": 2048}
model = WanTransformer3DModel(**wide).eval()
def forward(*size):
    inputs = make_inputs(model, "bcthw", 1, size, 128, torch.float32)
    with torch.no_grad():
        model(**inputs, return_dict=False)
predicted = count(lambda: forward(8, 64, 64)).activations
forward(1, 8, 8)
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if key in line) * 1024
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
forward(8, 64, 64)
print(predicted / (status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_predicted_memory_is_what_the_process_grows_by() -> None:
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT],
        env={**os.environ, **malloc},
        capture_output=True,
        text=True,
        check=True,
    )
    print(done.stdout)
    assert float(done.stdout) == pytest.approx(1, abs=0.15)


def test_four_times_the_tokens_cost_four_times_the_attention_of_four_windows() -> None:
    denoiser = pipeline_denoiser("LTXPipeline", {"denoiser": TINY["LTXPipeline"][1]})
    one, window = denoiser.forward(12), denoiser.forward(3)
    keys = denoiser.tokens(3) * 2 * 16 * 2 * 2 * 4  # width, layers, batch, 4 a pair
    text = keys * 128
    assert window.attention == keys * denoiser.tokens(3) + text
    assert one.attention == 16 * keys * denoiser.tokens(3) + 4 * text
    whole, chained = plan(denoiser, one, 12, 1, 0), plan(denoiser, window, 3, 4, 0)
    assert whole.tokens == 4 * chained.tokens
    extra = (16 - 4) * keys * denoiser.tokens(3) * denoiser.steps
    assert whole.total - chained.total == pytest.approx(extra, rel=0.01)  # text is read once
    assert whole.memory > chained.memory


@pytest.mark.slow
def test_command_on_a_folder_and_on_a_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_pipeline("LTXPipeline", tmp_path / "pipeline")
    size, rate = ["--frame-size", "16", "32"], ["--tflops", "2"]
    out = tmp_path / "plots"
    assert main([str(folder), *size, *rate, "--seconds", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    # 50 frames, 12.5 a window: 4 latent frames of 4x8, or 16 of them at once
    assert "4 x 128" in printed
    assert "512" in printed
    assert "of 2 TFLOP/s, as given" in printed
    assert "Identity and colour drift" in printed
    assert (out / "cost.png").stat().st_size > 10_000
    assert main(["pong", "--overlap", "2", "--out", str(tmp_path / "pong.png")]) == 0
    printed = capsys.readouterr().out
    assert "the ring cache keeps the newest" in printed
    assert "each window sees 2 frames" in printed
    assert (tmp_path / "pong.png").stat().st_size > 10_000


@pytest.mark.slow
def test_command_on_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--windows", "1", "--tflops", "100", "--out", str(tmp_path / "a.png")]
    assert main(["LTXPipeline", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "7,392" in printed
    assert "1,923 M parameters" in printed
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["NoSuchPipeline"], "NoSuchPipeline is no video pipeline known here; take CogVideoX"),
        (["LTXPipeline", "--frame-size", "100", "64"], "multiples of 32, got 100x64"),
        (["LTXPipeline", "--seconds", "0"], "--seconds must be a number above 0 and .*, got 0.0"),
        (
            ["LTXPipeline", "--windows", "0"],
            "--windows must be a whole number from 1 to 10,000, got 0",
        ),
        (["LTXPipeline", "--overlap", "161"], "below the frames of a window, 161, got 161"),
        (["LTXPipeline", "--attention", "full"], "--attention is for worlds, and LTXPipeline"),
        (["pong", "--attention", "full", "dense"], "attention must be .*, got 'dense'"),
        (["pong", "--attention", ""], "attention must be .*, got ''"),
        (["nowhere"], "no world at 'nowhere'.*class of a video pipeline"),
    ],
)
def test_mistakes(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        main(arguments)


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no world at"):
        open_target(CostConfig(str(tmp_path / "none")))
    folder = save_tiny_pipeline("LTXPipeline", tmp_path / "pipeline")
    index, right = folder / "model_index.json", (folder / "model_index.json").read_text()
    for name, sentence in (
        ("StableDiffusionPipeline", "is a StableDiffusionPipeline, no video pipeline"),
        ("WanPipeline", "must be a WanTransformer3DModel, got LTXVideo"),
    ):
        index.write_text(json.dumps({"_class_name": name}))
        with pytest.raises(ValueError, match=sentence):
            open_target(CostConfig(str(folder)))
    index.write_text(right)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no vae/config.json that can be read"):
        open_target(CostConfig(str(folder)))
