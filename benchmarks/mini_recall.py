"""Recalls of the built-in model on a captioned data set: `images/` and `captions.jsonl`.

Run it as `python -m benchmarks.mini_recall FOLDER [--split val] [--captions 5]`. It goes through
the packaged encoder alone; the index and its ranking are not part of the figure.
"""

import argparse
import json
from pathlib import Path

from retrieval.encoders.mini import MiniEncoder
from retrieval.training.mini import measure
from retrieval.training.mini_features import read_captioned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="all")
    parser.add_argument("--captions", type=int, default=5, help="the first so many of each photo")
    chosen = parser.parse_args()
    captioned = read_captioned(chosen.folder, chosen.split, chosen.captions)
    print(json.dumps({"photos": len(captioned.photos), **measure(MiniEncoder(), captioned)}))


if __name__ == "__main__":
    main()
