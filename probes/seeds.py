"""Seeds for independent streams, derived from the one the user sets."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """Seed of a stream that depends on the seed and the stream's names only; 0 is a seed like any other.

    Returns:
        An integer in [0, 2⁶³).

    Example:
        >>> derive_seed(0, "init", 3) == derive_seed(0, "init", 3) != derive_seed(1, "init", 3)
        True
    """
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
