"""What was recorded: episodes, windows of them, and the files that hold them."""
