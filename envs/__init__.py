"""worldsim.envs."""
