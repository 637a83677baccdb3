"""`worldsim eval`: the command, its report, and a file for each section of the report."""
