"""What the command line does besides running a study, and how every command ends."""
