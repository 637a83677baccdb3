"""The plots of the report: a figure for each section, each world in its colour."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from worldsim.bands import Estimate

from .measure import Measured
from .verdicts import EVENTS

matplotlib.use("Agg")  # before pyplot, which else looks for a display
from matplotlib import pyplot as plt

COLOURS = ("#2f6fde", "#e0662f", "#3c9d5b", "#9355c4", "#c23b62")
BASELINES = {
    "game_again": ("the game again", "#222222", "-"),
    "copy_last": ("last frame copied", "#999999", "--"),
    "median": ("median frame", "#999999", ":"),
}
METRICS = {
    "psnr_moving": "PSNR on moving pixels, dB",
    "ssim_moving": "SSIM on moving pixels",
    "psnr": "PSNR on all pixels, dB",
    "ssim": "SSIM on all pixels",
    "lpips": "LPIPS (lower is better)",
}


def plot(section: str, measured: Sequence[Measured]) -> str:
    """Draw the figure of a section, as a data URI.

    Args:
        section: One of `SECTIONS`.
        measured: The worlds.
    """
    draw = {
        "fidelity": _fidelity,
        "flicker": _flicker,
        "control": _control,
        "stability": _stability,
        "memory": _memory,
        "events": _events,
        "speed": _speed,
    }[section]
    figure = draw([dataclasses.replace(one, name=_literal(one.name)) for one in measured])
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    plt.close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"


def _literal(name: str) -> str:
    """A name in which matplotlib finds no formula."""
    return name.replace("$", r"\$")


def colour_of(index: int) -> str:
    """The colour of a world."""
    return COLOURS[index % len(COLOURS)]


def _axes(columns: int, height: float = 3.2) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, columns, figsize=(4.2 * columns, height), squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, axes[0]


def _line(
    axis: Any, x: Sequence[float], values: Sequence[Estimate], colour: str, **style: Any
) -> None:
    """A curve with its band."""
    axis.plot(x, [one.value for one in values], color=colour, **style)
    lows, highs = [one.low for one in values], [one.high for one in values]
    axis.fill_between(x, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _fidelity(measured: Sequence[Measured]) -> Any:
    shown = [m for m in METRICS if m in next(iter(_horizons(measured[0]).values()))]
    figure, axes = _axes(len(shown))
    for axis, metric in zip(axes, shown, strict=True):
        rows = _horizons(measured[0])
        steps = [int(step) for step in rows]
        for name, (label, colour, style) in BASELINES.items():
            if all(name in row[metric] for row in rows.values()):
                values = [row[metric][name] for row in rows.values()]
                _line(axis, steps, values, colour, label=label, linestyle=style)
        for i, one in enumerate(measured):
            rows = _horizons(one)
            values = [row[metric]["world"] for row in rows.values()]
            _line(axis, [int(s) for s in rows], values, colour_of(i), label=one.name, marker="o")
        axis.set_xscale("log", base=2)
        axis.set_xlim(0.9 * steps[0], 1.1 * steps[-1])
        axis.set_xticks(steps, [str(step) for step in steps], fontsize=8)
        axis.set_xlabel("steps ahead")
        axis.set_title(METRICS[metric], fontsize=10)
    axes[0].legend(fontsize=8)
    return figure


def _horizons(one: Measured) -> dict[str, Any]:
    horizons: dict[str, Any] = one.figures["fidelity"]["horizons"]
    return horizons


def _bars(
    axis: Any,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[float], str]],
    turn: int = 0,
) -> None:
    """Bars side by side in each group; what is nan is left out."""
    width = 0.8 / max(1, len(series))
    for i, (label, values, colour) in enumerate(series):
        places = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        axis.bar(places, np.nan_to_num(np.asarray(values, float)), width, color=colour, label=label)
    axis.set_xticks(range(len(groups)), groups, rotation=turn, fontsize=8)
    axis.legend(fontsize=8)


def _flicker(measured: Sequence[Measured]) -> Any:
    figure, axes = _axes(2)
    for axis, kind, title in (
        (axes[0], "warping_error", "flow warping error, values of 255"),
        (axes[1], "flow", "mean flow, pixels a step"),
    ):
        names = ["real", *(one.name for one in measured)]
        values = [measured[0].figures["flicker"][f"{kind}_real"]]
        values += [one.figures["flicker"][f"{kind}_world"] for one in measured]
        heights = [one.value for one in values]
        spread = [
            [one.value - one.low for one in values],
            [one.high - one.value for one in values],
        ]
        colours = ["#222222", *(colour_of(i) for i in range(len(measured)))]
        axis.bar(names, heights, color=colours, yerr=np.abs(np.nan_to_num(spread)), capsize=3)
        axis.set_title(title, fontsize=10)
    return figure


def _control(measured: Sequence[Measured]) -> Any:
    figure, axes = _axes(3)
    first = measured[0].figures["control"]
    names = [_literal(name) for name in first["action_shuffle_ratio_by_action"]]
    turn = 90 if len(names) > 6 else 0
    recognised = [("real", list(first["recognised"]["real_by_action"].values()), "#222222")]
    ratios, effects = [], []
    if "real" in first["effect_by_action"]:
        effects.append(("real", list(first["effect_by_action"]["real"].values()), "#222222"))
    for i, one in enumerate(measured):
        found = one.figures["control"]
        colour = colour_of(i)
        recognised.append((one.name, list(found["recognised"]["world_by_action"].values()), colour))
        ratios.append((one.name, list(found["action_shuffle_ratio_by_action"].values()), colour))
        effects.append((one.name, list(found["effect_by_action"]["world"].values()), colour))
    _bars(axes[0], names, recognised, turn)
    axes[0].set_title("actions recognised", fontsize=10)
    _bars(axes[1], names, ratios, turn)
    axes[1].axhline(1, color="#222222", linewidth=0.8)
    axes[1].set_title("action-shuffle ratio", fontsize=10)
    _bars(axes[2], names, [(n, [100 * v for v in values], c) for n, values, c in effects], turn)
    axes[2].set_title("changed by the action, % of pixels", fontsize=10)
    return figure


def _stability(measured: Sequence[Measured]) -> Any:
    figure, axes = _axes(3)
    floor = measured[0].figures["stability"]["held_out_nearest"]
    axes[0].axhline(floor, color="#222222", linewidth=0.8, label="held-out frames")
    for i, one in enumerate(measured):
        found, colour = one.figures["stability"], colour_of(i)
        axes[0].plot(found["steps"], found["nearest"], color=colour, marker="o", label=one.name)
        axes[0].fill_between(
            found["steps"], found["nearest_low"], found["nearest_high"], color=colour, alpha=0.15
        )
        axes[1].plot(found["steps"], found["objects"], color=colour, marker="o")
        axes[2].plot(found["steps"], found["motion"], color=colour, marker="o")
    for axis, title in zip(axes, ("distance to the recording", "objects", "motion"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps of a session")
        axis.set_ylim(bottom=0)
    for axis in axes[1:]:
        axis.axhline(1, color="#222222", linewidth=0.8)
    axes[0].legend(fontsize=8)
    return figure


def _memory(measured: Sequence[Measured]) -> Any:
    figure, axes = _axes(1)
    ages = sorted({age for one in measured for age in one.figures["memory"]}, key=int)
    series = []
    for i, one in enumerate(measured):
        for kind, alpha in (("world", "ff"), ("forgetful", "55")):
            values = [
                one.figures["memory"][age][kind].value if age in one.figures["memory"] else math.nan
                for age in ages
            ]
            label = one.name if kind == "world" else f"{one.name}, forgetful"
            series.append((label, values, colour_of(i) + alpha))
    _bars(axes[0], [f"≤ {age}" for age in ages], series)
    axes[0].set_xlabel("steps out of sight")
    axes[0].set_title("PSNR of what comes back, dB", fontsize=10)
    return figure


def _events(measured: Sequence[Measured]) -> Any:
    figure, axes = _axes(2)
    series = []
    axes[1].plot([0, 1], [0, 1], color="#222222", linewidth=0.8)
    for i, one in enumerate(measured):
        found = one.figures["events"]
        series.append((one.name, [found[key]["f1"] for key in EVENTS.values()], colour_of(i)))
        curve = found["termination_reliability"]
        axes[1].plot(
            [point["predicted"] for point in curve],
            [point["happened"] for point in curve],
            color=colour_of(i),
            marker="o",
        )
    _bars(axes[0], list(EVENTS), series)
    axes[0].set_ylim(0, 1.05)
    axes[0].set_title("F1, up to 8 steps ahead", fontsize=10)
    axes[1].set_title("ends: frequency by probability", fontsize=10)
    return figure


def _speed(measured: Sequence[Measured]) -> Any:
    figure, axes = _axes(1)
    for i, one in enumerate(measured):
        for (step, times), style in zip(one.latency.items(), ("-", "--", ":"), strict=False):
            limit = np.percentile(times, 99)
            label = f"{one.name}, step {step:,}"
            axes[0].hist(
                times[times <= limit],
                bins=30,
                histtype="step",
                color=colour_of(i),
                linestyle=style,
                label=label,
            )
    axes[0].set_xlabel("ms a step")
    axes[0].set_ylabel("steps")
    axes[0].legend(fontsize=8)
    return figure
