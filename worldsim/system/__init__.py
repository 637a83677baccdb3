"""Between worldsim and the machine: files, devices, threads, options of the commands."""
