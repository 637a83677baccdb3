"""How good a world is: what is measured of it, and the report."""
