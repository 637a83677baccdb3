"""Settings of a run as a file: written, read back, mixed with the command line, refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from worldsim.system.options import options_of
from worldsim.system.settings import flatten, settings_text, with_values
from worldsim.train.agent_config import RENAMED as RENAMED_OF_AGENT
from worldsim.train.agent_config import AgentConfig
from worldsim.train.config import RENAMED, Model, TrainConfig, read_config, resumed_config
from worldsim.train.optim import Optim
from worldsim.train.recipe import Recipe
from worldsim.train.run_log import Logging

# What a checkpoint of a version with flat settings says, as JSON.
OLDER = {
    **{"recording": "data", "out": "runs/x", "resume": False, "steps": 9, "minutes": None},
    **{"size": "small", "seed": 3, "log": ["tensorboard"], "wandb": "disabled"},
    **{"batch_size": 2, "num_frames": 24, "patch_size": 4, "time_every": 2, "passes": 1},
    **{"lr": 0.002, "clip": 2.0, "presence": 0.7, "final_presence": None, "own_history": 0.8},
    **{"clean_fraction": 0.2, "noise_fraction": 0.3, "damaged_history": 0.4, "evals": 1},
    **{"held_out": 0.2, "of_an_even_older_version": 1},
}


def read(tmp_path: Path, text: str, *words: str) -> TrainConfig:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(["data", "--out", str(tmp_path / "run"), "--config", str(path), *words])


def test_a_file_of_settings_gives_them_back(tmp_path: Path) -> None:
    config = TrainConfig(
        (Path("data"),),
        tmp_path / "run",
        minutes=1e-05,
        logging=Logging((), wandb_project='a "b" \\ é#', wandb_tags=("x", "[y]")),
        recipe=Recipe(object_focus=(0.6, 0.15)),
    )
    config.write()
    text = (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    assert "\n# Extra loss weight of moving pixels.\nmoving_weight = 10.0\n" in text
    assert max(map(len, text.splitlines())) <= 100
    assert dataclasses.replace(read(tmp_path, text), config=None) == config


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    text = "seed = 7\nsteps = 5\n[optim]\nlr = 1\n[recipe]\nobject_focus = [0.5, 0]\n"
    config = read(tmp_path, text)
    assert (config.seed, config.steps, config.optim) == (7, 5, Optim(lr=1.0))
    assert config.recipe == Recipe(object_focus=(0.5, 0.0))
    config = read(tmp_path, text, "--optim.lr", "0.1", "--minutes", "2")
    assert (config.optim.lr, config.seed) == (0.1, 7)
    assert (config.steps, config.minutes) == (None, 2.0)  # one length replaces the other


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[recipe]\nself_rolout = 1", "no setting 'recipe.self_rolout'; did you mean recipe.self_"),
        ("optim = 3", "there is no setting 'optim'; did you mean "),
        ("seed = {a = 1}", "there is no setting 'seed.a'; did you mean seed"),
        ("own_history = 0.8", "own_history is now recipe.self_rollout"),
        ('out = "elsewhere"', "out belongs on the command line, not in a file"),
        ("[optim]\nlr = 'fast'", "optim.lr must be a number above 0 and at most 1,000,000, got"),
        ("seed = true", "seed must be a whole number from 0 to 4,294,967,295, got True"),
        ("[recipe]\nobject_focus = [0.5]", "recipe.object_focus must be 2 values, got"),
        ("seed: 1", "is damaged (Expected '=' after a key"),
        ("a = " + "[" * 9999, "is damaged ("),
        ("#" * 20_000, "has 20,000 bytes, and at most 16,384 are read"),
    ],
)
def test_what_a_file_cannot_say_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^.*settings\.toml") as caught:
        read(tmp_path, text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_its_own_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "link.toml").symlink_to(__file__)
    words = ["data", "--out", str(tmp_path / "run"), "--config"]
    with pytest.raises(ValueError, match="is a link, and only regular files are read"):
        read_config([*words, str(tmp_path / "link.toml")])
    with pytest.raises(ValueError, match="--config: there is no file"):
        read_config([*words, str(tmp_path / "none.toml")])


def test_settings_of_an_older_version_have_the_new_names() -> None:
    config = TrainConfig((Path("data"),), Path("runs/here"), resume=True)
    begun = resumed_config(config, json.loads(json.dumps(OLDER)))
    assert (begun.out, begun.resume) == (Path("runs/here"), True)
    assert (begun.size, begun.seed, begun.steps) == ("small", 3, 9)
    assert begun.logging == Logging(("tensorboard",), "disabled")
    assert begun.model == Model(window=24, patch_size=(4,), time_every=2, chance_bits=0, passes=1)
    assert begun.optim == Optim(batch_size=2, lr=0.002, max_grad_norm=2.0)
    assert begun.recipe == Recipe(
        object_focus=(0.7, 0.7), tau_mixture=(0.2, 0.3), self_rollout=0.8, corrupt_history=0.4
    )
    assert (begun.run.num_evals, begun.run.held_out) == (1, 0.2)
    later = resumed_config(config, {"presence": 0.7, "final_presence": 0.15})
    assert later.recipe == Recipe(object_focus=(0.7, 0.15))


def test_every_new_name_is_one_of_an_option_and_no_old_one_is() -> None:
    for config, renamed in ((TrainConfig, RENAMED), (AgentConfig, RENAMED_OF_AGENT)):
        names = {option.name for option in options_of(config)}
        assert set(renamed.values()) <= names
        assert not set(renamed) & names


def test_a_file_of_settings_names_each_option_once(tmp_path: Path) -> None:
    config = AgentConfig("pong", tmp_path)
    text = settings_text(config, "An agent.", ("world", "out"))
    keys = [line.split(" =")[0].removeprefix("# ") for line in text.splitlines() if " =" in line]
    assert sorted(keys) == sorted(
        option.path[-1] for option in options_of(AgentConfig) if option.name not in ("world", "out")
    )
    assert with_values(config, flatten({"ppo": {"lr": 0.1}})).ppo.lr == 0.1
