"""Nouns of the starter suite: people and animals with their plurals, given names, places."""

from __future__ import annotations

from probes.tasks.starter.blocks import words_of

_PEOPLE = """
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

_ANIMALS = """
    alligator ant antelope ape baboon badger beaver bee beetle buffalo butterfly calf camel canary cat chimpanzee
    cobra cow coyote crab crocodile dog dolphin donkey dragonfly elephant falcon ferret flamingo fox frog
    gazelle gecko giraffe goat goose gorilla grasshopper hamster hedgehog hen heron hornet horse hyena jackal jaguar
    kangaroo kitten koala lamb leopard lion lizard llama lobster lynx magpie mongoose monkey mouse mule octopus ostrich
    otter owl panda panther parrot peacock pelican penguin pheasant pigeon pony porcupine puppy raccoon rat raven
    robin rooster scorpion seagull snail snake sparrow spider squirrel stork swan toad tortoise turkey
    turtle vulture walrus wasp weasel whale wolf wombat woodpecker zebra
"""

WORD_CONTENT = ("doctor", "farmer", "lawyer", "sailor", "singer", "eagle", "rabbit", "tiger")
"""Nouns that stand in every split, one a sentence: the classes of the task `word_content`."""

PEOPLE = words_of(_PEOPLE)
ANIMALS = words_of(_ANIMALS)

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

_IRREGULAR = {
    "calf": "calves",
    "goose": "geese",
    "mouse": "mice",
    "thief": "thieves",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}


def plural(noun: str) -> str:
    """The plural of a noun of this lexicon.

    Example:
        >>> [plural(noun) for noun in ("goose", "fireman", "fox", "spy", "monkey")]
        ['geese', 'firemen', 'foxes', 'spies', 'monkeys']
    """
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("man"):
        return f"{noun[:-2]}en"
    if noun.endswith(("s", "x", "ch", "sh")) or noun == "buffalo":
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeou" else f"{noun}s"
