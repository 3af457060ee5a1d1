"""Adjectives, adverbs and comparatives of the starter suite."""

from __future__ import annotations

from probes.tasks.starter.blocks import words_of

ADJECTIVES = words_of(
    """
    absurd agile aloof anxious bald bashful bossy brave busy calm careless cautious charming cheerful chubby clever
    clumsy cold confident cruel curious daring dirty distant drowsy eager elderly elegant energetic exhausted famous
    fearless fierce foolish friendly frail funny furious generous gentle giant gloomy graceful grateful greedy grumpy
    handsome happy harmless healthy honest hungry idle impatient innocent jealous jolly joyful lazy lonely loud loyal
    lucky mature mean merry modest moody muddy mysterious naive nasty nervous nimble noisy obedient odd old patient
    peaceful pale playful plump polite poor popular powerful proud quick quiet reckless restless rich rude sad selfish
    serious shabby shy sick silent silly skinny sleepy slender slow sly small smart sneaky sober solemn stern
    stubborn strange strict strong tall talkative tame tender thin thirsty thoughtful tidy timid tiny tired tough ugly
    unhappy vain vigilant weak weary wicked wild wise witty young
    """
)

ADVERBS = words_of(
    """
    apparently boldly calmly cheerfully clearly constantly eagerly evidently frequently generally gladly happily
    noticeably obviously often openly privately proudly publicly quietly quickly regularly reluctantly repeatedly
    secretly sincerely suddenly surely truly usually visibly
    """
)

COMPARATIVES = tuple(
    tuple(pair.split(":"))
    for pair in words_of("""
    taller:shorter older:younger faster:slower richer:poorer stronger:weaker heavier:lighter louder:quieter
    happier:sadder fatter:thinner kinder:crueler politer:ruder healthier:sicker sharper:duller
    warmer:colder tidier:messier cleaner:dirtier harder:softer bigger:smaller wetter:drier higher:lower
    """)
)
"""A comparative and its converse: who is taller than another leaves the other shorter."""

PREPOSITIONS = ("near", "beside", "behind")
CONJUNCTIONS = ("although", "because", "though", "since")
DETERMINERS = ("the", "my", "our", "their")
