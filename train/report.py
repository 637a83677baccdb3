"""The report of `worldsim eval` as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from worldsim.files import write_text
from worldsim.video import filmstrip, write_mp4

from .measure import Frames, Measured
from .plots import colour_of, plot
from .verdicts import SECTIONS, verdicts

CLIPS = 3
CLIP_STEPS = 64
STRIP_STEPS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
STRIP_WINDOWS = 3
PIXELS = 128  # height of an enlarged frame, about


def write_report(path: Path, title: str, lead: str, measured: Sequence[Measured]) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        title: Its heading.
        lead: What was measured on what.
        measured: The worlds, each of which becomes a colour.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    told = [verdicts(one.figures) for one in measured]
    sections = [
        {
            "name": words,
            "verdicts": [(one.name, told[i][key]) for i, one in enumerate(measured)],
            "plot": plot(key, measured),
            "notes": _notes(key, measured),
        }
        for key, words in SECTIONS.items()
    ]
    worlds = [
        {
            "name": one.name,
            "colour": colour_of(i),
            "facts": _facts(one),
            "clips": _clips(one),
            "strip": strip_of(one),
            "tried": _strip_of_actions(one),
        }
        for i, one in enumerate(measured)
    ]
    page = environment.get_template("report.html").render(
        title=title, lead=lead, sections=sections, worlds=worlds
    )
    write_text(path, page)


def _facts(one: Measured) -> str:
    figures = one.figures
    height, width = one.world.game.frame_size
    return (
        f"{figures['parameters'] / 1e6:.2f} million parameters, {height}×{width}, "
        f"{figures['num_passes']} denoising pass{'es' * (figures['num_passes'] > 1)} a frame, "
        f"{figures['windows']} windows of {one.held_out.horizon} steps, on "
        f"{figures['device']}. {figures['seen']}"
    )


def _notes(key: str, measured: Sequence[Measured]) -> list[str]:
    """What a reader of a section should know beside its plot."""
    if key == "fidelity":
        found = measured[0].figures["fidelity"]
        notes = ["Bands: 95 %, bootstrapped over episodes."]
        if found["no_game_again"]:
            notes.append(f"The game was not played again: {found['no_game_again']}")
        if found["no_lpips"]:
            notes.append(found["no_lpips"])
        told = "; ".join(f"{one.name} {one.figures['frechet']['world']:.3g}" for one in measured)
        first = measured[0].figures["frechet"]
        if math.isfinite(first["world"]):
            notes.append(
                f"Fréchet distance to recorded play, on 64 features of a small network that was "
                f"trained on this recording (neither FID nor FVD): {told}; held-out play "
                f"{first['held_out']:.3g}, last frame copied {first['copy_last']:.3g}."
            )
        return notes
    if key == "flicker":
        return [
            "Flow warping error (Lai et al. 2018): mean difference between a frame and the one "
            "before it, moved along the optical flow, in values of 255."
        ]
    if key == "control":
        notes = [
            "Left: how often each action is recognised, from real and from imagined frames, by a "
            "network trained on real ones. Middle: loss under other windows' actions over loss "
            "under the true ones. Right: pixels that holding an action changes, beside doing "
            "nothing."
        ]
        for one in measured:
            still = one.figures["control"]["noop_pixels_a_step"]
            real = f" ({still['real'].value:.1f} in the game)" if "real" in still else ""
            notes.append(
                f"{one.name}: with no action {still['world'].value:.1f} pixels change in a "
                f"step{real}."
            )
        why_not = measured[0].figures["control"]["no_real_counterfactuals"]
        return [*notes, f"The game could not be tried: {why_not}"] if why_not else notes
    if key == "stability":
        return [
            "Distance to the nearest recorded frame at 16 by 16 pixels, in values of 255; the "
            "shade spans the sessions. Objects and motion: pixels unlike the median frame, and "
            "pixels that change in a step, over those of the recording."
        ]
    if key == "memory":
        return [
            "Pixels that show again what they showed before the world was left to itself, by how "
            "long they had been hidden. Pale: the same world, shown only frames in which they "
            "were hidden already."
        ]
    if key == "events":
        return ["Left: F1. Right: how often an end came, by its predicted probability."]
    return []


# ------------------------------------------------------------------ pictures and clips


def _enlargement(one: Measured) -> int:
    return max(1, PIXELS // one.imagined.shape[2])


def strip_of(one: Measured, path: Path | None = None) -> str:
    """Real frames above, the world's below, the same actions; the frame given comes first."""
    steps = [step for step in STRIP_STEPS if step <= one.held_out.horizon]
    columns = [step - 1 for step in steps]
    rows, labels = [], []
    for window in range(min(STRIP_WINDOWS, len(one.imagined))):
        given = one.held_out.last_context[window][None]
        for label, frames in (("real", one.held_out.real), ("world", one.imagined)):
            rows.append(np.concatenate([given, frames[window, columns]]))
            labels.append(label)
    return _strip(rows, _enlargement(one), labels, ["given", *(f"+{s}" for s in steps)], path)


def _strip_of_actions(one: Measured) -> str:
    """One moment, every action held: the game above, the world below."""
    tried = one.counterfactuals
    steps = [step for step in (1, 2, 4, 6, 8, 12, 16) if step <= tried.imagined.shape[2]]
    columns = [step - 1 for step in steps]
    given = one.held_out.last_context[0][None]
    rows, labels = [], []
    for action, name in enumerate(one.world.game.action_meanings):
        for label, frames in (("real", tried.real), (name, tried.imagined)):
            if frames is not None:
                rows.append(np.concatenate([given, frames[0, action, columns]]))
                labels.append(label)
    return _strip(rows, _enlargement(one), labels, ["given", *(f"+{s}" for s in steps)])


def _strip(
    rows: Sequence[Frames],
    scale: int,
    labels: Sequence[str],
    columns: Sequence[str],
    path: Path | None = None,
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _data(filmstrip(rows, path or Path(folder) / "strip.png", scale, labels, columns))


def _clips(one: Measured) -> list[str]:
    """Looping videos of the first windows: real, imagined, and how they differ."""
    clips = []
    length = min(CLIP_STEPS, one.held_out.horizon)
    for window in range(min(CLIPS, len(one.imagined))):
        real, ours = one.held_out.real[window, :length], one.imagined[window, :length]
        difference = np.abs(real.astype(np.int16) - ours).astype(np.uint8)
        gap = np.full((length, real.shape[1], 2, real.shape[3]), 255, np.uint8)
        video = np.concatenate([real, gap, ours, gap, difference], axis=2)
        scale = max(4, _enlargement(one) // 2 * 2)  # what every browser can show
        with tempfile.TemporaryDirectory() as folder:
            path = write_mp4(Path(folder) / "clip.mp4", video, one.world.game.fps, scale)
            clips.append(_data(path, "video/mp4"))
    return clips


def _data(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
