"""The Hugging Face Hub: which names are ids on it, and why a model cannot be fetched."""

from __future__ import annotations

import re

from worldsim.system.files import one_line

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def why_not_fetched(model: str, error: BaseException) -> str:
    """A sentence with the reason why a model cannot be fetched, and a remedy."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes: list[BaseException] = [error]
    while (before := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(before)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"{model} is gated: accept its terms at https://huggingface.co/{model}, then log in "
            "with `hf auth login`"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"the Hub has no model {model}, or it is private: check the name, or log in with "
            "`hf auth login`"
        )
    if "cached" in str(error) or "connect" in str(error).lower():
        return (
            f"{model} is not on this machine and the Hub cannot be reached: connect to the "
            f"network, or run `hf download {model}` elsewhere and give its folder"
        )
    return f"{model} cannot be fetched: {one_line(error)}"
