"""Seeds of independent random streams, derived from the one seed that the user sets."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """Derive the seed of a named random stream.

    Streams with different names are independent, and a stream depends on nothing but the seed and its names: adding a
    task, a layer or a probe to a run does not change the random numbers of the existing ones.

    Args:
        seed: The user's seed; 0 is a seed like any other.
        names: What identifies the stream, such as `"folds"` or a layer's name; their strings count.

    Returns:
        An integer in [0, 2⁶³), the same on every machine.

    Example:
        >>> derive_seed(0, "init", 3) == derive_seed(0, "init", 3) != derive_seed(1, "init", 3)
        True
    """
    text = "\x1f".join(map(str, (seed, *names)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # 63 bits, so that it fits torch's int64
