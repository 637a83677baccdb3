"""How much memory a call takes."""

from __future__ import annotations

from collections.abc import Callable

import torch


def allocated_peak(run: Callable[[], object], with_gradients: bool = False) -> int:
    """Run on the CPU; the most bytes that PyTorch's allocator had given out at once."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    profiler = torch.profiler.profile(activities=activities, profile_memory=True)
    with torch.set_grad_enabled(with_gradients), profiler:
        run()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
