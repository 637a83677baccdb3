"""worldsim.train."""
