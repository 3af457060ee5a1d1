"""Plug-ins of Hydra that come with probes: it looks for launchers and sweepers in `hydra_plugins` alone."""
