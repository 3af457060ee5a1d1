"""Word lists are written as blocks of text; this reads them."""

from __future__ import annotations


def words_of(block: str) -> tuple[str, ...]:
    """The words of a block of text, in order.

    Example:
        >>> words_of("oak elm ash")
        ('oak', 'elm', 'ash')
    """
    return tuple(block.split())
