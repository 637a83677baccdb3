"""The network: tokens to frames, noise levels, samplers, codecs and heads."""
