"""The words of the starter suite: which of them a split may use, their inflected forms, and the lists themselves."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

HELD_OUT_SHARE = 1 / 3
"""Share of each group of words that only test rows use."""


@dataclass(frozen=True)
class Vocabulary:
    """The words that one split may use, in groups.

    A word is a string, a `Verb` (group `verbs`) or a pair of strings (groups `comparatives` and `relatives`).
    """

    groups: dict[str, tuple[Any, ...]]

    def __getitem__(self, group: str) -> tuple[Any, ...]:
        return self.groups[group]

    def pick(self, rng: random.Random, group: str) -> Any:
        """A random word of a group."""
        return rng.choice(self.groups[group])

    def pick_distinct(self, rng: random.Random, groups: Sequence[str], count: int) -> list[Any]:
        """Distinct random words from the union of several groups."""
        return rng.sample([word for group in groups for word in self.groups[group]], count)


@dataclass(frozen=True)
class Verb:
    """The forms of a verb: `bite`, `bites`, `bit`, `bitten`."""

    base: str
    singular: str
    past: str
    participle: str


@lru_cache(maxsize=16)
def vocabulary(seed: int, split: str) -> Vocabulary:
    """The words of a split: of each group, test uses the third that is held out from train and validation."""
    return Vocabulary({group: _words_of_split(group, seed, held_out=split == "test") for group in GROUPS})


def held_out_words(groups: Iterable[str], seed: int = 0) -> frozenset[str]:
    """All forms of the words of some groups that only test rows use.

    Args:
        groups: Names among `GROUPS`.
        seed: The suite's seed.
    """
    words = [word for group in groups for word in vocabulary(seed, "test")[group]]
    return frozenset(form for word in words for form in _forms(word))


def plural(noun: str) -> str:
    """The plural of a noun of this vocabulary.

    Example:
        >>> [plural(noun) for noun in ("goose", "fireman", "fox", "spy", "monkey")]
        ['geese', 'firemen', 'foxes', 'spies', 'monkeys']
    """
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith("man"):
        return f"{noun[:-2]}en"
    return f"{noun}es" if noun == "buffalo" else _with_s(noun)


def words_of(block: str) -> tuple[str, ...]:
    """The words of a block of text, in order.

    Example:
        >>> words_of("oak elm ash")
        ('oak', 'elm', 'ash')
    """
    return tuple(block.split())


def _words_of_split(group: str, seed: int, *, held_out: bool) -> tuple[Any, ...]:
    words = list(GROUPS[group])
    random.Random(f"{seed}/vocabulary/{group}").shuffle(words)
    cut = round(HELD_OUT_SHARE * len(words))
    return tuple(words[:cut] if held_out else words[cut:])


def _forms(word: Any) -> tuple[str, ...]:
    if isinstance(word, Verb):
        return (word.base, word.singular, word.past, word.participle)
    if isinstance(word, tuple):
        return word
    return (word, plural(word)) if word in PEOPLE or word in ANIMALS else (word,)


def _with_s(stem: str) -> str:
    """A noun in the plural, or a verb in the third person singular."""
    if stem.endswith(("s", "x", "ch", "sh")):
        return f"{stem}es"
    return f"{stem[:-1]}ies" if _ends_in_consonant_and_y(stem) else f"{stem}s"


def _with_ed(base: str) -> str:
    """The regular past tense and past participle."""
    if base.endswith("e"):
        return f"{base}d"
    if base == "hug":  # the only regular verb here that doubles its last letter
        return "hugged"
    return f"{base[:-1]}ied" if _ends_in_consonant_and_y(base) else f"{base}ed"


def _ends_in_consonant_and_y(stem: str) -> bool:
    return stem.endswith("y") and stem[-2] not in "aeiou"


# Nouns and names

PEOPLE = words_of(
    """
    accountant acrobat actor analyst apprentice artist astronomer athlete auditor aunt baker banker barber
    bartender biologist bishop blogger botanist boy broker brother builder burglar butcher butler captain carpenter
    cashier cellist champion chauffeur chemist clerk clown collector comedian commuter composer conductor consultant
    courier cousin curator customer cyclist dancer daughter dentist detective director diver doorman driver drummer
    economist editor electrician emperor engineer explorer father fireman fisherman florist
    gangster gardener geologist girl goalkeeper governor grandfather grandmother guitarist hermit historian hunter
    hairdresser immigrant inspector instructor interpreter janitor jeweler jogger journalist juggler king knight
    landlord lecturer librarian lifeguard linguist magician manager mayor mechanic merchant milkman miner minister
    mother musician neighbor nephew niece novelist nun officer orphan painter passenger peasant pedestrian
    pharmacist philosopher physicist pianist pilgrim pirate plumber poet policeman porter potter priest prince
    princess prisoner producer professor programmer pupil queen rabbi receptionist refugee reporter runner salesman
    scholar scientist sculptor secretary senator shepherd sister skater smuggler soldier son spy student surfer
    surgeon swimmer tailor teacher teenager tenant therapist thief tourist trader translator traveler tutor twin
    uncle violinist visitor waiter waitress weaver welder widow wife witch wizard woman wrestler
    """
)

ANIMALS = words_of(
    """
    alligator ant antelope ape baboon badger beaver bee beetle buffalo butterfly calf camel canary cat chimpanzee
    cobra cow coyote crab crocodile dog dolphin donkey dragonfly elephant falcon ferret flamingo fox frog
    gazelle gecko giraffe goat goose gorilla grasshopper hamster hedgehog hen heron hornet horse hyena jackal jaguar
    kangaroo kitten koala lamb leopard lion lizard llama lobster lynx magpie mongoose monkey mouse mule octopus ostrich
    otter owl panda panther parrot peacock pelican penguin pheasant pigeon pony porcupine puppy raccoon rat raven
    robin rooster scorpion seagull snail snake sparrow spider squirrel stork swan toad tortoise turkey
    turtle vulture walrus wasp weasel whale wolf wombat woodpecker zebra
    """
)

WORD_CONTENT = ("doctor", "farmer", "lawyer", "sailor", "singer", "eagle", "rabbit", "tiger")
"""The classes of the task `word_content`; each sentence has one of these nouns, in every split."""

_IRREGULAR_PLURALS = {
    "calf": "calves",
    "goose": "geese",
    "mouse": "mice",
    "thief": "thieves",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}

NAMES = words_of(
    """
    Ada Agnes Albert Alice Amir Anita Anna Anton Arthur Astrid Barbara Basil Beatrice Bella Boris Bruno Camille Carlos
    Carmen Cecil Clara Conrad Cora Cyrus Daniel Daphne Diana Diego Doris Edgar Edith Elena Elias Emma Enzo Erik Esther
    Eva Felix Fiona Frida George Gloria Greta Gustav Hannah Harold Hassan Hector Helen Hugo Ibrahim Ida Igor Ingrid
    Irene Isaac Ivan Jacob Jana Jasmine Joan Jonas Julia Karim Karl Kenji Laura Lena Leon Lucas Lydia Marco Margaret
    Maria Martin Mehmet Mia Miriam Nadia Naomi Nils Nina Nora Olga Oliver Omar Oscar Otto Pablo Paula Pedro Peter Petra
    Philip Rachel Rafael Ralph Rita Robert Rosa Ruth Samuel Sandra Selma Simon Sofia Stefan Susan Sven Tanya Teresa
    Thomas Tomas Ursula Vera Victor Viola Walter Wanda Wilma Xavier Yara Yusuf Yvonne Zoe
    """
)

PLACES = words_of(
    """
    airport alley arena attic bakery barn basement cabin cafe canyon castle cathedral cave cellar chapel classroom
    clinic corridor cottage courtyard factory forest gallery garage garden greenhouse hallway harbor hospital hotel
    jungle kitchen laboratory laundry library lobby mansion market meadow monastery museum office orchard palace park
    pharmacy quarry restaurant school shed shelter stable stadium station studio swamp tavern temple theater tower
    tunnel valley village warehouse workshop
    """
)

# Verbs

_REGULAR_VERBS = words_of(
    """
    admire adore amaze annoy applaud approach assist avoid believe betray blame bother challenge charm chase
    comfort confuse console contact criticize deceive defeat defend describe despise detest disappoint discover dislike
    distract distrust disturb doubt embarrass embrace encounter encourage enjoy envy escort examine fascinate flatter
    follow frighten fear greet harass hassle hate help hire hug ignore imitate impress insult interrogate interrupt
    intimidate invite irritate kick kiss locate love mention miss mistrust mock notice observe obey
    offend outsmart pardon pester photograph please praise protect provoke punish push question recall recognize
    reject remember rescue resemble respect reward ridicule scare scratch shock soothe startle summon support surprise
    surround suspect target tease telephone thank threaten tickle trick trust value visit warn watch welcome
    worship worry
    """
)

_IRREGULAR_VERBS = words_of(
    """
    bite:bit:bitten bring:brought:brought catch:caught:caught choose:chose:chosen draw:drew:drawn
    feed:fed:fed fight:fought:fought find:found:found forget:forgot:forgotten forgive:forgave:forgiven
    forsake:forsook:forsaken hear:heard:heard hide:hid:hidden hold:held:held know:knew:known lead:led:led
    leave:left:left meet:met:met mislead:misled:misled misunderstand:misunderstood:misunderstood
    outrun:outran:outrun overhear:overheard:overheard overtake:overtook:overtaken see:saw:seen seek:sought:sought
    shake:shook:shaken strike:struck:struck teach:taught:taught understand:understood:understood wake:woke:woken
    """
)
"""Base, past and participle."""

TRANSITIVE = (
    *(Verb(base, _with_s(base), _with_ed(base), _with_ed(base)) for base in _REGULAR_VERBS),
    *(Verb(base, _with_s(base), past, part) for base, past, part in (forms.split(":") for forms in _IRREGULAR_VERBS)),
)
"""Verbs that take any person or animal as subject and as object."""

MUTUAL = frozenset(words_of("embrace encounter fight hug kiss meet resemble"))
"""Bases of those that often hold in both directions: who meets someone is also met."""

INTRANSITIVE_PAST = words_of(
    """
    arrived blinked blushed bowed breathed collapsed coughed cried departed disappeared dozed fainted fell fled frowned
    giggled grinned groaned grumbled hesitated hummed jumped knelt laughed limped listened mumbled nodded panicked
    paused relaxed resigned retired returned sang screamed shivered shouted shrugged sighed slept smiled sneezed snored
    stumbled sulked surrendered survived sweated trembled vanished vomited waited wept whispered whistled winked
    woke yawned yelled
    """
)

# Modifiers and function words

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
"""A comparative and its converse: if one person is taller than another, the other is shorter."""

RELATIVES = tuple(
    tuple(pair.split(":"))
    for pair in words_of("""
    man:woman boy:girl father:mother son:daughter brother:sister uncle:aunt nephew:niece king:queen prince:princess
    husband:wife grandfather:grandmother actor:actress waiter:waitress host:hostess duke:duchess monk:nun
    groom:bride lord:lady steward:stewardess hero:heroine landlord:landlady grandson:granddaughter
    stepfather:stepmother stepson:stepdaughter godfather:godmother policeman:policewoman businessman:businesswoman
    widower:widow salesman:saleswoman emperor:empress
    """)
)
"""Nouns for a man and for a woman."""

PREPOSITIONS = ("near", "beside", "behind")
CONJUNCTIONS = ("although", "because", "though", "since")
DETERMINERS = ("the", "my", "our", "their")

# Opinions

PRAISE_ADJECTIVES = words_of(
    """
    admirable amazing awesome beautiful brilliant captivating charming delightful enchanting enjoyable excellent
    exceptional exquisite fabulous fantastic fascinating faultless flawless glorious gorgeous impressive incredible
    inspiring lovely magical magnificent marvelous memorable outstanding perfect phenomenal pleasant refreshing
    remarkable rewarding satisfying sensational spectacular splendid stunning sublime superb terrific thrilling
    tremendous unbeatable wonderful
    """
)

BLAME_ADJECTIVES = words_of(
    """
    abysmal annoying appalling atrocious awful bland boring clumsy deplorable depressing disappointing disastrous
    disgraceful dismal dreadful dreary dull embarrassing forgettable frustrating ghastly horrendous horrible horrid
    infuriating inferior irritating laughable lousy mediocre miserable painful pathetic pitiful pointless poor shoddy
    sloppy tedious terrible tiresome unbearable uninspired unpleasant useless woeful worthless
    """
)

PRAISE_VERBS = words_of(
    """
    admired adored applauded appreciated celebrated cherished commended complimented enjoyed extolled loved praised
    recommended relished saluted savored treasured welcomed
    """
)

BLAME_VERBS = words_of(
    """
    bemoaned condemned criticized deplored despised detested disliked dreaded hated lamented loathed mocked
    regretted rejected resented ridiculed scorned slammed
    """
)

TOPIC_THINGS = {
    "sport": words_of(
        """
        backhand cyclist defender dribble dunk forehand fullback goalie goalkeeper gymnast hurdle javelin kickoff
        lineup marathon match midfielder offense penalty pitcher playoff quarterback race rebound referee relay regatta
        scrum semifinal shortstop slalom sprint sprinter striker swimmer tackle tournament triathlon umpire volley
        wrestler
        """
    ),
    "food": words_of(
        """
        bagel bisque bread broth burger burrito cake casserole cheese chowder cookie croissant curry custard dessert
        dumpling gravy lasagna marinade muffin noodle omelet pancake pasta pastry pie pizza porridge pudding ravioli
        risotto salad sandwich sauce soup spaghetti steak stew sushi taco tiramisu waffle
        """
    ),
    "music": words_of(
        """
        accordion anthem aria bagpipe ballad band bassist bassoon cellist chorus clarinet clarinetist composer concerto
        drummer duet flute flutist guitar guitarist harmony harpist hymn lullaby mandolin melody oboe orchestra organist
        overture pianist quartet rapper saxophone serenade singer sonata soprano symphony tenor trombone trumpet
        violinist
        """
    ),
    "travel": words_of(
        """
        backpack cabin cruise detour excursion expedition ferry flight guidebook hammock itinerary journey landing
        layover lodging luggage motorbike passport pilgrimage porter sailboat safari seatbelt shuttle sightseeing
        souvenir stewardess stopover suitcase sunset taxi tent ticket tour trail train tram trek upgrade vacation
        viaduct visa voyage
        """
    ),
}
"""Topic → people and things that belong to it."""

TOPIC_VENUES = {
    "sport": words_of("arena ballpark bullpen gym pitch pool racetrack rink stadium velodrome scoreboard sideline"),
    "food": words_of(
        "bakery bistro buffet cafeteria canteen delicatessen diner kitchen pizzeria restaurant steakhouse tavern"
    ),
    "music": words_of(
        "auditorium bandstand chapel club conservatory festival jukebox nightclub opera rehearsal recital jamboree"
    ),
    "travel": words_of("airport border campsite harbor hostel hotel island lagoon motel resort terminal waterfall"),
}
"""Topic → places where one finds these."""

TOPICS = tuple(TOPIC_THINGS)

# All groups

GROUPS: dict[str, tuple[Any, ...]] = {
    "people": PEOPLE,
    "animals": ANIMALS,
    "names": NAMES,
    "places": PLACES,
    "verbs": TRANSITIVE,
    "intransitives": INTRANSITIVE_PAST,
    "adjectives": ADJECTIVES,
    "adverbs": ADVERBS,
    "comparatives": COMPARATIVES,
    "relatives": RELATIVES,
    "praise_adjectives": PRAISE_ADJECTIVES,
    "praise_verbs": PRAISE_VERBS,
    "blame_adjectives": BLAME_ADJECTIVES,
    "blame_verbs": BLAME_VERBS,
    **{f"{topic}_things": words for topic, words in TOPIC_THINGS.items()},
    **{f"{topic}_venues": words for topic, words in TOPIC_VENUES.items()},
}
"""Group → its words; a third of each group is held out for test."""
