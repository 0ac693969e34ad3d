"""The bank of generic queries: composes sentences about what photos commonly show.

Rankings against hubs compare each photo with this bank (`retrieval.ranking.query_bank`), so it must
not depend on any data set: the words below are everyday ones, the rarer nouns are the names of
ImageNet's classes. This writes the shipped sentences and their embeddings by `mini`; run it again
whenever the weights of `mini` change:

    python -m retrieval.training.query_bank
"""

import random

from retrieval.ranking import query_bank

COUNT, SEED = 1000, 0

_PEOPLE = """man|woman|boy|girl|child|baby|couple|family|crowd|group of people|group of friends
musician|dancer|worker|chef|cyclist|runner|old man|old woman|young man|young woman|bride and groom
teacher|soldier|tourist|climber|fisherman|surfer|skier|athlete|artist|singer|little girl|little boy
toddler|teenager|two men|two women|two children|three people|several people|two girls|two boys
person|man and a woman|mother and child|football player|basketball player|team of players"""
_CLOTHES = """in a red shirt|in a blue shirt|in a white dress|in a black jacket|in a green coat
in a yellow shirt|in a striped sweater|in jeans|in shorts|in a suit|in a uniform|in a hat
in a helmet|in sunglasses|in a swimsuit|in a costume|with a backpack|with long hair|with a beard
with an umbrella|with a camera|with a dog|with a bag|with a bicycle|with a ball"""
_ACTIONS = """walking|running|jumping|sitting|standing|sleeping|eating|drinking|reading|smiling
laughing|talking|dancing|singing|playing|working|waiting|cooking|swimming|climbing|skateboarding
riding a bicycle|riding a horse|riding a motorcycle|playing football|playing tennis
playing basketball|playing baseball|playing the guitar|taking a photograph|holding a child
holding an umbrella|carrying a bag|talking on the phone|using a laptop|looking at the camera
looking out of a window|surfing a wave|skiing|snowboarding|fishing|rowing a boat|throwing a ball
catching a ball|blowing bubbles|pushing a cart|painting a picture|crossing a street|buying food
posing for a photo|hugging|kissing|pointing at something|lying down|crawling|splashing|sliding
swinging|hiking|camping|driving a car|performing|racing|jumping into the air|climbing a rock"""
_ANIMALS = """dog|cat|horse|bird|cow|sheep|duck|elephant|bear|giraffe|zebra|monkey|rabbit|goat|fish
butterfly|brown dog|black dog|white dog|small dog|two dogs|kitten|puppy|flock of birds|herd of cows
seagull|parrot|squirrel|deer|lion|black and white dog|large dog|two cats|brown horse"""
_ANIMAL_ACTIONS = """running|sleeping|jumping|standing|sitting|eating|swimming|playing with a ball
looking at the camera|lying down|walking|drinking water|chasing another one|carrying a stick
catching something in the air|shaking off water|held by a person|wearing a collar|jumping over a bar
playing with a toy|following a person"""
_THINGS = """car|truck|bus|train|bicycle|motorcycle|boat|ship|airplane|house|church|bridge|tower
castle|table|chair|sofa|bed|lamp|television|computer|phone|clock|bottle|cup of coffee|plate of food
pizza|cake|sandwich|bowl of fruit|salad|bunch of flowers|tree|book|toy|ball|kite|umbrella|suitcase
sign|traffic light|bench|fountain|statue|fence|door|window|sink|toilet|mirror|painting|guitar|piano
drum|skateboard|surfboard|tent|campfire|map|menu|receipt|poster|balloon"""
_PLACES = """on the beach|in the park|in the street|in the snow|in the water|in a kitchen
in a living room|in a bedroom|in a bathroom|in an office|in a restaurant|in a classroom|in a shop
at a market|in the forest|in the mountains|in a field|on the grass|in the desert|on a lake
on a river|in the sea|in a swimming pool|on a bridge|at night|at sunset|in the rain|in the fog
in a stadium|on a stage|at a concert|at a wedding|at a party|on a playground|at an airport
at a train station|in a museum|in a church|in a garden|on a farm|in front of a building
in front of a house|in front of a wall|on a road|on a sidewalk|on a bench|on a rock|on a table
on a couch|on a boat|on a hill|on a roof|by a window|near a tree|under a bridge|in a city
in a village|indoors|outdoors|in a crowd|on a dirt track|on a ramp|down a slope|along the shore"""
_LOOKS = """in black and white|seen up close|seen from above|seen from behind|in bright sunlight
in the dark"""


def _split(words: str) -> list[str]:
    return words.replace("\n", "|").split("|")


def _article(noun: str) -> str:
    """'an apple', 'a dog', 'two dogs'."""
    if noun.split()[0] in ("two", "three", "several"):
        return noun
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def compose(count: int, classes: list[str], seed: int) -> list[str]:
    """`count` distinct queries: half about people, the rest about animals, things and `classes`."""
    people, clothes, actions = _split(_PEOPLE), _split(_CLOTHES), _split(_ACTIONS)
    animals, animal_actions = _split(_ANIMALS), _split(_ANIMAL_ACTIONS)
    things, places, looks = _split(_THINGS), _split(_PLACES), _split(_LOOKS)
    draw = random.Random(seed)  # noqa: S311
    found: dict[str, None] = {}
    while len(found) < count:
        kind = draw.random()
        if kind < 0.5:
            words = [_article(draw.choice(people))]
            words += [draw.choice(clothes)] * (draw.random() < 0.4)
            words += [draw.choice(actions)]
        elif kind < 0.7:
            words = [_article(draw.choice(animals)), draw.choice(animal_actions)]
        else:
            words = [_article(draw.choice(things if kind < 0.85 else classes))]
        words += [draw.choice(places)] * (draw.random() < 0.85)
        words += [draw.choice(looks)] * (draw.random() < 0.05)
        found[" ".join(words)] = None
    return list(found)


def main() -> None:
    """Write the sentences, one per line, and their embeddings."""
    from retrieval.encoders.mini.encoder import MiniEncoder
    from retrieval.training.pretrained_towers import imagenet_names

    sentences = compose(COUNT, imagenet_names(), SEED)
    query_bank.QUERIES.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    for old in query_bank.SHIPPED.glob("bank-*.npy"):
        old.unlink()
    encoder = MiniEncoder()
    rows = query_bank.encode_bank(encoder)
    query_bank.write_bank(rows, encoder.fingerprint, query_bank.SHIPPED)


if __name__ == "__main__":
    main()
