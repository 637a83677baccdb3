"""What lies between worldsim and the machine: files, devices, threads, options of the commands."""
