"""Codecs that a user names: a folder, that of a pipeline, or an id on the Hub."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.edits import edit_json
from tests.tiny_worlds import make_tiny_dc_codec, make_tiny_vae_codec, make_tiny_video_codec
from worldsim.model.find_codec import open_codec
from worldsim.model.weights import WEIGHTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_vae_codec().save(tmp_path / "codec")
    return tmp_path / "codec"


class TestFolder:
    @pytest.mark.parametrize(
        "make", [make_tiny_vae_codec, make_tiny_dc_codec, make_tiny_video_codec]
    )
    def test_a_codec_keeps_its_fingerprint_from_folder_to_folder(
        self, make: type, tmp_path: Path
    ) -> None:
        codec = make()
        codec.save(tmp_path / "codec")
        opened = open_codec(str(tmp_path / "codec"), 3)
        opened.save(tmp_path / "again")
        again = open_codec(str(tmp_path / "again"), 3)
        assert codec.fingerprint() == opened.fingerprint() == again.fingerprint()

    def test_other_weights_or_another_scale_are_another_codec(self) -> None:
        codec = make_tiny_vae_codec()
        prints = [codec.fingerprint()]
        codec.autoencoder.register_to_config(scaling_factor=0.5)
        prints.append(codec.fingerprint())
        with torch.no_grad():
            next(codec.autoencoder.parameters()).view(-1)[0] += 1e-3
        prints.append(codec.fingerprint())
        assert len({*prints, make_tiny_dc_codec().fingerprint()}) == 4

    def test_a_pipeline_has_its_codec_in_vae(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "pipeline").mkdir()
        (tmp_path / "pipeline/model_index.json").write_text('{"_class_name": "LTXPipeline"}')
        folder.rename(tmp_path / "pipeline/vae")
        opened = open_codec(str(tmp_path / "pipeline"), 3)
        assert opened.fingerprint() == make_tiny_vae_codec().fingerprint()

    def test_files_may_be_links_as_in_the_cache_of_the_hub(
        self, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "snapshot").mkdir()
        for file in folder.iterdir():
            (tmp_path / "snapshot" / file.name).symlink_to(file)
        opened = open_codec(str(tmp_path / "snapshot"), 3)
        assert opened.fingerprint() == make_tiny_vae_codec().fingerprint()

    def test_weights_of_an_old_diffusers_are_the_same(self, folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, name in old.items():
            tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
        assert any(".proj_attn." in name for name in tensors)
        save_file(tensors, folder / WEIGHTS)
        assert open_codec(str(folder), 3).fingerprint() == make_tiny_vae_codec().fingerprint()

    def test_weights_in_half_precision_are_read(self, folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / WEIGHTS)
        frames = torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8)
        latents = open_codec(str(folder), 3).encode(frames)
        assert latents.dtype == torch.float32
        torch.testing.assert_close(
            latents, make_tiny_vae_codec().encode(frames), atol=1e-2, rtol=1e-2
        )

    def test_weights_in_a_pickle_are_not_read(self, folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
        (folder / WEIGHTS).unlink()
        with pytest.raises(ValueError, match=r"has no diffusion_pytorch_model\.safetensors: .* pi"):
            open_codec(str(folder), 3)

    def test_an_unknown_class_is_refused_by_its_name(self, folder: Path) -> None:
        edit_json(folder / "config.json", lambda config: {**config, "_class_name": "os.system"})
        with pytest.raises(
            ValueError, match=r"must be one of AutoencoderKL, .*, got 'os\.system': give a folder"
        ):
            open_codec(str(folder), 3)

    def test_other_channels_are_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="maps 3 to 3 channels, but frames have 1: give a"):
            open_codec(str(folder), 1)

    def test_damaged_weights_are_refused(self, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(b"\x00" * 100)
        with pytest.raises(ValueError, match=f"{WEIGHTS} is damaged .*: give a folder"):
            open_codec(str(folder), 3)

    @pytest.mark.parametrize("name", ["codecs/of/mine", "nothing"])
    def test_a_folder_that_is_not_there_is_named(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=re.escape(f"there is no folder {name}, and it is")):
            open_codec(name, 3)

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"is no autoencoder that can be a codec: .*, got none"
        ):
            open_codec(str(tmp_path), 3)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A real server of files, which answers as the Hub does; the folder it serves and its URL."""
    files = tmp_path / "hub"

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            owner, name, _, _, *rest = self.path.strip("/").split("/")
            file = files.joinpath(owner, name, *rest)
            data = file.read_bytes() if file.is_file() else b""
            self.send_response(200 if data else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            if not data:
                known = (files / owner / name).is_dir()
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield files, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
class TestHub:
    def open(self, name: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
        """Open a codec in a fresh process, which reads the Hub's address from its environment."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            **{"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"},
        }
        code = (
            "import sys\nfrom worldsim.model.find_codec import open_codec\n"
            "try:\n    print(open_codec(sys.argv[1], 3).fingerprint())\n"
            "except ValueError as error:\n    print(error)"
        )
        words = [sys.executable, "-c", code, name]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True)

    @pytest.mark.parametrize("place", ["", "vae"])
    def test_an_id_is_downloaded_once_and_only_its_safetensors(
        self, place: str, hub: tuple[Path, str], tmp_path: Path
    ) -> None:
        files, endpoint = hub
        make_tiny_vae_codec().save(files / "me/tiny" / place)
        (files / "me/tiny" / place / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
        for _ in range(2):
            done = self.open("me/tiny", endpoint, tmp_path / "cache")
            assert done.stdout.strip() == make_tiny_vae_codec().fingerprint(), done.stderr
        cached = [path.name for path in (tmp_path / "cache").rglob("*.*") if path.is_symlink()]
        assert sorted(cached) == ["config.json", WEIGHTS]

    @pytest.mark.parametrize(
        ("is_there", "words"),
        [
            (False, "there is no folder me/tiny, and the Hub has no model me/tiny"),
            (True, "me/tiny has no diffusion_pytorch_model.safetensors: weights are"),
        ],
    )
    def test_what_is_not_there_is_told_in_one_sentence(
        self, is_there: bool, words: str, hub: tuple[Path, str], tmp_path: Path
    ) -> None:
        files, endpoint = hub
        if is_there:
            make_tiny_vae_codec().save(files / "me/tiny")
            (files / "me/tiny" / WEIGHTS).unlink()
        done = self.open("me/tiny", endpoint, tmp_path / "cache")
        assert done.stdout.startswith(words), done.stderr
        assert done.stdout.count("\n") == 1
