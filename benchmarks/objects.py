"""What a model knows about things that its training captions may lack: queries for one thing.

    python -m benchmarks.objects DATASET [--split S] [--model mini]

The queries are the names of COCO's categories and of a few places, alone and in two phrases. A
photo is relevant if two of its captions name the thing. Printed are mean average precision over all
photos and R@1, in percent.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexes.arrays import Bools, Floats
from retrieval.datasets.captioned import read_captioned
from retrieval.datasets.embedding_cache import drop_unreadable, open_embedding_cache
from retrieval.encoders.registry import load_encoder

NAMES = """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant
stop sign|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|tie
suitcase|frisbee|skis|snowboard|kite|baseball|bat|skateboard|surfboard|tennis|bottle|wine glass|cup
fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair
couch|bed|table|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink
refrigerator|book|clock|vase|scissors|teddy bear|beach|snow|kitchen|bathroom|street""".replace(
    "\n", "|"
).split("|")
PHRASES = ("{}", "a {}", "a photo of a {}")


def relevant_photos(name: str, captions: Sequence[Sequence[str]]) -> Bools:
    """Which photos have two captions that name the thing or its plural: bool [photos]."""
    word = re.compile(rf"\b{re.escape(name)}s?\b", re.IGNORECASE)
    return np.array([sum(bool(word.search(c)) for c in some) >= 2 for some in captions])


def average_precision(scores: Floats, relevant: Bools) -> float:
    """The mean precision at each relevant photo, in percent."""
    found = relevant[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(found) / np.arange(1, len(found) + 1)
    return float(100 * precision[found].mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="all")
    parser.add_argument("--model", default="mini")
    chosen = parser.parse_args()
    encoder = load_encoder(chosen.model)
    whole = read_captioned(chosen.dataset, chosen.split)
    with open_embedding_cache(encoder, lambda *_: None) as cache:
        photos, unreadable = cache.photos(whole.photos)
        used = drop_unreadable(whole, unreadable, False, print)
        captions = [photo.captions for photo in used.photos]
        relevant = {name: r for name in NAMES if (r := relevant_photos(name, captions)).any()}
        print(f"{len(relevant)} things in {len(captions):,} photos, {encoder.name}, in percent")
        for phrase in PHRASES:
            queries = cache.texts([phrase.format(name) for name in relevant]).rows
            scores = queries @ photos.rows.T
            pairs = list(zip(scores, relevant.values(), strict=True))
            precision = np.mean([average_precision(s, r) for s, r in pairs])
            first = 100 * np.mean([r[s.argmax()] for s, r in pairs])
            print(f"{phrase.format('THING'):<20} mAP {precision:5.1f}   R@1 {first:5.1f}")


if __name__ == "__main__":
    main()
