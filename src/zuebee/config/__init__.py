"""Every setting, and how a file of them is read."""
