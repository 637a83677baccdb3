"""Pipelines of diffusers, the true classes on tiny random weights: found, loaded, asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from tests.edits import edit_json
from tests.tiny_pipelines import MAKERS, save_tiny_pipeline
from worldsim.video.pipelines import VideoPipeline

pytestmark = pytest.mark.filterwarnings(
    "ignore:In CPU autocast:UserWarning",  # Mochi
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
)
PHOTO = np.random.default_rng(0).integers(0, 255, (1, 40, 60, 3), dtype=np.uint8)
WORDS = "a ball that rolls over the grass"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline, written once."""
    folders: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in folders:
            folders[name] = save_tiny_pipeline(name, tmp_path_factory.mktemp("model") / name)
        return folders[name]

    return folder_of


def ask(pipeline: VideoPipeline, seed: int = 0, **more: object) -> np.ndarray:
    """A window of few steps, from a photo where the pipeline takes one and words where it can."""
    asked: dict = {
        "num_frames": pipeline.stride + 1 if pipeline.stride > 1 else 4,
        "frame_size": (32, 32),
        "num_inference_steps": 2,
        "seed": seed,
    }
    if pipeline.takes("prompt"):
        asked["prompt"] = WORDS
    context = PHOTO if pipeline.takes_image else None
    return pipeline.generate(context, **{**asked, **more})


@pytest.mark.parametrize("name", MAKERS)
def test_each_class_is_found_by_its_index_and_makes_the_requested_frames(
    saved: Callable[[str], Path], name: str
) -> None:
    pipeline = VideoPipeline(str(saved(name)))
    assert pipeline.name == name
    ticks: list[int] = []
    frames = ask(pipeline, on_step=lambda: ticks.append(1))
    num_frames = pipeline.stride + 1 if pipeline.stride > 1 else 4
    assert frames.shape == (num_frames, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert len(ticks) == 2
    np.testing.assert_array_equal(frames, ask(pipeline))
    assert not np.array_equal(frames, ask(pipeline, seed=1))
    if pipeline.stride > 1:
        with pytest.raises(ValueError, match=rf"makes {pipeline.stride}k \+ 1 frames at a time"):
            ask(pipeline, num_frames=pipeline.stride)
    with pytest.raises(ValueError, match=f"{name} has no colour_of_the_sky"):
        ask(pipeline, colour_of_the_sky="blue")


def test_what_the_published_models_take_by_default(saved: Callable[[str], Path]) -> None:
    svd = VideoPipeline(str(saved("StableVideoDiffusionPipeline")))
    assert (svd.fps, svd.frame_size, svd.num_frames) == (7, (576, 1024), 6)
    assert svd.frame_size_for(np.zeros((1, 90, 60, 3), np.uint8)) == (1024, 576)
    assert svd.frame_size_for(PHOTO) == (576, 1024)
    ltx = VideoPipeline(str(saved("LTXPipeline")))
    assert (ltx.fps, ltx.frame_size, ltx.num_frames) == (25, (512, 704), 161)
    cogvideox = VideoPipeline(str(saved("CogVideoXPipeline")))
    assert (cogvideox.fps, cogvideox.frame_size, cogvideox.num_frames) == (8, (32, 32), 9)


def test_ltx_continues_frames_with_the_same_weights(saved: Callable[[str], Path]) -> None:
    pipeline = VideoPipeline(str(saved("LTXPipeline")))
    asked: dict = {"num_frames": 9, "frame_size": (32, 32), "num_inference_steps": 2, "seed": 0}
    with pytest.raises(ValueError, match="takes text only, not an image"):
        pipeline.generate(PHOTO, prompt=WORDS, **asked)
    transformer = pipeline.pipe.transformer
    pipeline.become_sibling()
    assert pipeline.name == "LTXConditionPipeline"
    assert pipeline.pipe.transformer is transformer
    tail = np.repeat(PHOTO, 5, axis=0)
    one = pipeline.generate(tail[:1], prompt=WORDS, **asked)
    several = pipeline.generate(tail, prompt=WORDS, **asked)
    assert not np.array_equal(one, several)  # all five of them are heard


def test_a_model_that_is_not_a_video_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder nowhere, and it is not an id"):
        VideoPipeline("nowhere")
    with pytest.raises(ValueError, match=r"it has no model_index\.json"):
        VideoPipeline(str(tmp_path))
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ValueError, match="a StableDiffusionPipeline, which makes no video"):
        VideoPipeline(str(tmp_path))
    index.write_text(json.dumps({"_class_name": "DreamOfTomorrowPipeline"}))
    with pytest.raises(ValueError, match=r"which diffusers .* does not have"):
        VideoPipeline(str(tmp_path))


def test_a_model_with_a_missing_part_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_pipeline("LTXPipeline", tmp_path / "model")
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        VideoPipeline(str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vae": ["payload", "Net"]}, r"the vae .* is \['payload', 'Net'\], which is not a class"),
        ({"vae": ["os", "system"]}, "which is not a class of diffusers or transformers"),
        ({"vae": ["diffusers"]}, "which is not a class"),
        ({"_class_name": ["payload", "LTXPipeline"]}, "which diffusers .* does not have"),
    ],
)
def test_a_module_that_a_model_names_is_not_imported(
    saved: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    words: str,
) -> None:
    folder = Path(shutil.copytree(saved("LTXPipeline"), tmp_path / "model"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("payload", "None"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit_json(folder / "model_index.json", lambda index: {**index, **change})
    with pytest.raises(ValueError, match=words):
        VideoPipeline(str(folder))
    assert not (tmp_path / "ran").exists()


def test_code_and_pickles_in_a_part_of_a_model_are_not_run(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved("LTXPipeline"), tmp_path / "model"))
    config = folder / "text_encoder" / "config.json"
    (folder / "text_encoder" / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit_json(config, lambda values: {**values, "auto_map": {"AutoModel": "payload.Thing"}})
    with pytest.raises(ValueError, match=r"text_encoder/config.json names its own code"):
        VideoPipeline(str(folder))
    shutil.copy(saved("LTXPipeline") / "text_encoder" / "config.json", config)

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "ran"), "w")

    (folder / "vae" / "model_index.json").write_text('{"_class_name": ["payload", "Thing"]}')
    with pytest.raises(ValueError, match=r"the vae .* is a pipeline inside a pipeline"):
        VideoPipeline(str(folder))
    (folder / "vae" / "model_index.json").unlink()
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save({"weight": Payload()}, folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        VideoPipeline(str(folder))
    os.mkfifo(folder / "text_encoder" / "merges.txt")
    with pytest.raises(ValueError, match=r"merges\.txt is neither a file nor a folder"):
        VideoPipeline(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"_class_name": null}'])
def test_an_index_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model_index\.json is damaged|does not have") as error:
        VideoPipeline(str(tmp_path))
    assert "\n" not in str(error.value)


def test_too_little_memory_is_reported_before_anything_is_read(tmp_path: Path) -> None:
    folder = save_tiny_pipeline("LTXPipeline", tmp_path / "model")
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    with (folder / "transformer" / "more.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**42)  # 4 TiB, of which the disk holds nothing
    with pytest.raises(ValueError, match=r"too little memory: .* takes at least 4,096\.0 GiB"):
        VideoPipeline(str(folder))
    with pytest.raises(ValueError, match=r"as bfloat16 takes at least 2,048\.0 GiB"):
        VideoPipeline(str(folder), dtype="bf16")


def test_too_little_memory_while_it_works_is_one_sentence(saved: Callable[[str], Path]) -> None:
    pipeline = VideoPipeline(str(saved("WanPipeline")))
    with pytest.raises(ValueError, match=r"too little memory .* fewer --num-frames"):
        ask(pipeline, num_frames=4 * 10**8 + 1, frame_size=(4096, 4096))


def test_weights_that_overflow_are_not_shown_as_black(tmp_path: Path) -> None:
    folder = save_tiny_pipeline("LTXPipeline", tmp_path / "model")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({key: torch.full_like(value, torch.inf) for key, value in weights.items()}, file)
    with pytest.raises(ValueError, match=r"not finite.*--dtype"):
        ask(VideoPipeline(str(folder)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to keep free")
def test_offloading_without_a_gpu_is_refused(saved: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"--offload model .* no GPU"):
        VideoPipeline(str(saved("LTXPipeline")), offload="model")


class _Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for a gated model and for one that is not there."""

    def do_GET(self) -> None:
        is_gated = "/gated/" in self.path
        if is_gated and "/api/models/" in self.path and "/revision/" not in self.path:
            names = ("model_index.json", "unet/config.json")
            body = {"id": "gated/model", "sha": "0" * 40, "gated": "manual", "private": False}
            self._answer(200, {**body, "siblings": [{"rfilename": name} for name in names]})
        elif is_gated:
            self._answer(403, {}, "GatedRepo")
        else:
            self._answer(404, {}, "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def _answer(self, status: int, body: dict, error: str = "") -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", error)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gated/model", "gated/model is gated: accept its terms at"),
        ("nobody/nothing", "the Hub has no model nobody/nothing"),
        ("nobody/unreachable", "the Hub cannot be reached: connect to the network"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(tmp_path: Path, model: str, words: str) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    if "unreachable" in model:
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "worldsim", "imagine", "a ball", "--model", model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    server.server_close()
