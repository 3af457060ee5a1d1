"""Probe every layer of a frozen language model: `python train.py`, or `python train.py --help`."""

from probes.cli import main

if __name__ == "__main__":
    main()
