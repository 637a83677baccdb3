from __future__ import annotations

import pytest
import torch

from worldsim.system.devices import check_memory, free_memory, pick_device


def test_a_device_that_works_is_given_back() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")).type == "cpu"
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["", "x", "meta", "cuda:99", "cpu:x", "mps:3", "päng", "vulkan"])
def test_a_device_that_there_is_not_is_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"^the device '.*' cannot be used here: ") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


def test_what_cannot_fit_is_refused_with_what_there_is() -> None:
    check_memory(1, "a byte", "")
    sentence = (
        r"a whale takes at least 1,048,576\.0 GiB, and this machine has [\d.,]+ GiB free: eat"
    )
    with pytest.raises(ValueError, match=sentence):
        check_memory(2**50, "a whale", "eat less")
    assert free_memory() > 0
