"""Measures of worlds (fidelity, flicker, control, drift, memory, events, speed) and the report."""
