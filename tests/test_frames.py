from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.frames import latents_to_pixels, pixels_to_latents

pytestmark = pytest.mark.numeric

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_every_pixel_value_survives_the_way_there_and_back() -> None:
    latents = pixels_to_latents(EVERY_VALUE)
    assert latents.dtype == torch.float32
    assert (latents.min(), latents.max()) == (-1, 1)
    assert np.array_equal(latents_to_pixels(latents).numpy(), EVERY_VALUE)


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 5, 7, 3), (2, 4, 5, 7, 1)])
def test_channels_move_to_the_front_of_height_and_width(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    latents = pixels_to_latents(pixels)
    assert latents.shape == (*shape[:-3], shape[-1], 5, 7)
    assert torch.equal(latents[..., 0, 2, 6], torch.from_numpy(pixels[..., 2, 6, 0]) / 127.5 - 1)
    assert np.array_equal(latents_to_pixels(latents).numpy(), pixels)


def test_latents_beyond_the_range_are_clipped_and_those_between_rounded() -> None:
    latents = torch.tensor([-9.0, -1.0, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1, 1.0, 9.0])
    assert latents_to_pixels(latents[None, None]).flatten().tolist() == [0, 0, 0, 1, 255, 255]


def test_neither_way_writes_into_what_it_was_given() -> None:
    pixels, latents = EVERY_VALUE.copy(), torch.full((1, 1, 2, 2), 0.3)
    pixels_to_latents(pixels)
    pixels_to_latents(torch.from_numpy(pixels))
    latents_to_pixels(latents)
    assert np.array_equal(pixels, EVERY_VALUE)
    assert torch.equal(latents, torch.full((1, 1, 2, 2), 0.3))


def test_views_with_steps_are_read_as_they_look() -> None:
    flipped = EVERY_VALUE[:, ::-1, ::2]
    assert np.array_equal(latents_to_pixels(pixels_to_latents(flipped)).numpy(), flipped)


def test_floats_are_refused_with_their_type() -> None:
    with pytest.raises(TypeError, match=r"pixels must be uint8 in 0\.\.255, got torch\.float32"):
        pixels_to_latents(np.zeros((2, 2, 3), np.float32))
