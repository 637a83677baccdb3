"""What the report draws: charts as SVG whose marks say their values, and differences in colour."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from worldsim.eval.bootstrap import Estimate
from worldsim.eval.report.charts import HEIGHT, WIDTH, Chart, Series, draw, legend
from worldsim.eval.report.pictures import amplification, colour_differences, strongest_channel


def marks(chart: Chart, kind: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(draw(chart)).iter() if e.get("class", "") == kind]


def labels(chart: Chart, kind: str) -> list[str]:
    return [mark[0].text or "" for mark in marks(chart, kind)]


def test_a_place_on_a_curve_shows_the_values_of_all_curves() -> None:
    curves = [
        Series("<real>", [1.0, math.nan, 3.0], "real", x=[1, 2, 4]),
        Series("a & b", [Estimate(2.0, 1.5, 2.5)] * 3, "w0", x=[1, 2, 4]),
    ]
    chart = Chart("PSNR, dB", curves, x_label="steps ahead", log_x=True)
    assert labels(chart, "column") == [
        "steps ahead: 1\n<real>: 1\na & b: 2 (1.5 to 2.5)",
        "steps ahead: 2\na & b: 2 (1.5 to 2.5)",
        "steps ahead: 4\n<real>: 3\na & b: 2 (1.5 to 2.5)",
    ]
    assert len(marks(chart, "spot real")) == 2
    assert len(marks(chart, "band w0")) == 1
    assert legend([chart, chart]) == [("<real>", "real"), ("a & b", "w0")]


def test_a_bar_shows_its_value_and_an_unknown_one_is_left_out() -> None:
    bars = [Series("real", [0.5, math.nan], "real"), Series("world", [0.25, 1.0], "w0")]
    chart = Chart("recognised", bars, groups=["NOOP", "UP"], y_from=0, y_to=1)
    assert labels(chart, "bar real") == ["real, NOOP\n0.5"]
    assert labels(chart, "bar w0") == ["world, NOOP\n0.25", "world, UP\n1"]
    half, whole = (float(bar.get("height", 0)) for bar in marks(chart, "bar w0"))
    assert whole == pytest.approx(4 * half, abs=0.2)


@pytest.mark.parametrize(
    "series",
    [
        [],
        [Series("nothing", [math.nan, math.nan], "w0", x=[1, 2])],
        [Series("level", [5.0, 5.0], "w0", x=[1, 2])],
        [Series("one", [5.0], "w0", x=[3])],
        [Series("none", [], "w0", x=[])],
        [Series("large", [1e9, -1e-9], "w0", x=[0, 1])],
    ],
)
def test_whatever_there_is_to_draw_stays_in_the_chart(series: list[Series]) -> None:
    for element in ElementTree.fromstring(draw(Chart("any", series))).iter():
        for name, most in (("x", WIDTH), ("x1", WIDTH), ("y", HEIGHT), ("y2", HEIGHT)):
            assert 0 <= float(element.get(name, 0)) <= most


def test_a_difference_is_orange_where_brighter_and_blue_where_darker() -> None:
    real = np.full((1, 1, 3, 3), 100, np.uint8)
    imagined = real.copy()
    imagined[0, 0, 0, 2] = 120  # in one channel
    imagined[0, 0, 1] = 60
    signed = strongest_channel(real, imagined)
    assert signed.tolist() == [[[20, -40, 0]]]
    (brighter, darker, same) = colour_differences(signed, 2)[0, 0].tolist()
    assert brighter[0] > 2 * brighter[2] > 0
    assert darker[2] > 2 * darker[0] > 0
    assert same == [0, 0, 0]


def test_small_differences_are_amplified_and_large_ones_are_not() -> None:
    assert amplification(np.zeros(9, np.int16)) == 1
    assert amplification(np.array([0, 3, -3], np.int16)) == 8
    assert amplification(np.array([0, -40, 40], np.int16)) == 3
    assert amplification(np.array([200, -255], np.int16)) == 1
