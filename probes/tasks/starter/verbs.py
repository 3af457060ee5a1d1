"""Verbs of the starter suite with their forms; none of them looks like a noun of it."""

from __future__ import annotations

from dataclasses import dataclass

from probes.tasks.starter.blocks import words_of


@dataclass(frozen=True)
class Verb:
    """The forms of a verb: `chase`, `chases`, `chased`, `chased`."""

    base: str
    singular: str
    past: str
    participle: str


_REGULAR = """
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

_IRREGULAR = """
    bite:bit:bitten bring:brought:brought catch:caught:caught choose:chose:chosen draw:drew:drawn
    feed:fed:fed fight:fought:fought find:found:found forget:forgot:forgotten forgive:forgave:forgiven
    forsake:forsook:forsaken hear:heard:heard hide:hid:hidden hold:held:held know:knew:known lead:led:led
    leave:left:left meet:met:met mislead:misled:misled misunderstand:misunderstood:misunderstood
    outrun:outran:outrun overhear:overheard:overheard overtake:overtook:overtaken see:saw:seen seek:sought:sought
    shake:shook:shaken strike:struck:struck teach:taught:taught understand:understood:understood wake:woke:woken
"""

INTRANSITIVE_PAST = words_of(
    """
    arrived blinked blushed bowed breathed collapsed coughed cried departed disappeared dozed fainted fell fled frowned
    giggled grinned groaned grumbled hesitated hummed jumped knelt laughed limped listened mumbled nodded panicked
    paused relaxed resigned retired returned sang screamed shivered shouted shrugged sighed slept smiled sneezed snored
    stumbled sulked surrendered survived sweated trembled vanished vomited waited wept whispered whistled winked
    woke yawned yelled
    """
)


def _third_person(base: str) -> str:
    if base.endswith(("s", "x", "ch", "sh")):
        return f"{base}es"
    return f"{base[:-1]}ies" if base.endswith("y") and base[-2] not in "aeou" else f"{base}s"


def _past(base: str) -> str:
    if base.endswith("e"):
        return f"{base}d"
    if base in _DOUBLED:
        return f"{base}{base[-1]}ed"
    return f"{base[:-1]}ied" if base.endswith("y") and base[-2] not in "aeou" else f"{base}ed"


_DOUBLED = {"hug"}


def _verbs() -> tuple[Verb, ...]:
    regular = [Verb(base, _third_person(base), _past(base), _past(base)) for base in _REGULAR.split()]
    forms = [entry.split(":") for entry in _IRREGULAR.split()]
    return (*regular, *(Verb(base, _third_person(base), past, participle) for base, past, participle in forms))


TRANSITIVE = _verbs()
"""Verbs that take any person or animal as subject and as object."""

MUTUAL = frozenset(words_of("embrace encounter fight hug kiss meet resemble"))
"""Bases of those that may well hold both ways round."""
