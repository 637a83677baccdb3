"""worldsim.play."""
