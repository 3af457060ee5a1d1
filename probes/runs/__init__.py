"""A run as a process with a folder: whose it is, how it ends, what it may keep and which code it may run."""
