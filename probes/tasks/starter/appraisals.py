"""Words of praise and blame, and the words of four topics, for the starter suite."""

from __future__ import annotations

from probes.tasks.starter.blocks import words_of

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

TOPICS = {
    "sport": (
        """
        backhand cyclist defender dribble dunk forehand fullback goalie goalkeeper gymnast hurdle javelin kickoff
        lineup marathon match midfielder offense penalty pitcher playoff quarterback race rebound referee relay regatta
        scrum semifinal shortstop slalom sprint sprinter striker swimmer tackle tournament triathlon umpire volley
        wrestler
        """,
        "arena ballpark bullpen gym pitch pool racetrack rink stadium velodrome scoreboard sideline",
    ),
    "food": (
        """
        bagel bisque bread broth burger burrito cake casserole cheese chowder cookie croissant curry custard dessert
        dumpling gravy lasagna marinade muffin noodle omelet pancake pasta pastry pie pizza porridge pudding ravioli
        risotto salad sandwich sauce soup spaghetti steak stew sushi taco tiramisu waffle
        """,
        "bakery bistro buffet cafeteria canteen delicatessen diner kitchen pizzeria restaurant steakhouse tavern",
    ),
    "music": (
        """
        accordion anthem aria bagpipe ballad band bassist bassoon cellist chorus clarinet clarinetist composer concerto
        drummer duet flute flutist guitar guitarist harmony harpist hymn lullaby mandolin melody oboe orchestra organist
        overture pianist quartet rapper saxophone serenade singer sonata soprano symphony tenor trombone trumpet
        violinist
        """,
        "auditorium bandstand chapel club conservatory festival jukebox nightclub opera rehearsal recital jamboree",
    ),
    "travel": (
        """
        backpack cabin cruise detour excursion expedition ferry flight guidebook hammock itinerary journey landing
        layover lodging luggage motorbike passport pilgrimage porter sailboat safari seatbelt shuttle sightseeing
        souvenir stewardess stopover suitcase sunset taxi tent ticket tour trail train tram trek upgrade vacation
        viaduct visa voyage
        """,
        "airport border campsite harbor hostel hotel island lagoon motel resort terminal waterfall",
    ),
}
"""Topic → its things, its places, as blocks of words."""


def things(topic: str) -> tuple[str, ...]:
    """What a topic talks of."""
    return words_of(TOPICS[topic][0])


def venues(topic: str) -> tuple[str, ...]:
    """Where a topic plays."""
    return words_of(TOPICS[topic][1])
