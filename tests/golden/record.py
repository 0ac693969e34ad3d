"""Write `answers.json`: what today's code answers to the queries below, over the demo's photos.

    python tests/golden/record.py

Run it only where an answer is meant to change, and say in the commit why it does.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ANSWERS = HERE / "answers.json"

CAPTIONS = {
    "coffee.png": ["a cup of espresso on a wooden table", "coffee in a white cup"],
    "chelsea.png": ["Chelsea, a ginger cat, looks into the camera"],
    "rocket.jpg": ["a Falcon 9 at night, before the launch"],
    "china.jpg": ["a temple in China with red walls"],
    "flower.jpg": ["a rocket on its launch pad"],  # a wrong one
    "astronaut.png": ["Eileen Collins, an astronaut, in an orange suit"],
}
QUERIES = {
    "text": "'a cat'",
    "two texts, weighted": "--text 'a cup'=2 --text 'on a table'=0.5",
    "photo": "--image chelsea.png",
    "two photos": "--image coins.png --image moon.png=0.5",
    "photo and text": "--image brick.png 'a lawn'",
    "photo and text, weighted": "--image rocket.jpg=2 'in daylight'=0.3",
    "unwanted text": "'an animal' --not 'a cat'",
    "unwanted photo": "'a person' --not-image astronaut.png",
    "photo, unwanted text": "--image flower.jpg --not 'a flower'=0.5",
    "all kinds of terms": "--image china.jpg 'a building' --not 'the sky' --not-image page.png",
    "lowest score": "'a man with a camera' --min-score 0.1",
    "relevance strict": "'a motorcycle' --relevance strict",
    "a word of one caption": "'falcon'",
    "re-ranked": "'a cup of coffee on a table' --rerank match",
    "re-ranked, plain": "'a horse' --rerank match --ranking plain",
    **{
        f"ranking {name}": f"'a rocket launch' --ranking {name}"
        for name in ("auto", "plain", "nnn", "qbnorm", "templates", "expansion")
    },
}
ONLY_WITH_CAPTIONS = {"ranking hybrid": "'a red temple' --ranking hybrid"}


def queries(captions: bool) -> dict[str, list[str]]:
    """The arguments of `retrieval search`, by the name of the query."""
    chosen = {**QUERIES, **(ONLY_WITH_CAPTIONS if captions else {})}
    return {name: shlex.split(text) for name, text in chosen.items()}


def write_captions(folder: Path) -> None:
    """Put the captions beside the photos, for the index that has some."""
    lines = [json.dumps({"image": i, "captions": c}) for i, c in CAPTIONS.items()]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


def kept(hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each hit what has to stay the same, its file by name."""
    names = ("score", "relevance", "match", "why")
    return [{"name": Path(hit["path"]).name, **{n: hit[n] for n in names}} for hit in hits]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from retrieval.demo import copy_demo_photos

    answers: dict[str, dict[str, Any]] = {}
    for captions in (False, True):
        with tempfile.TemporaryDirectory() as temporary:
            folder = copy_demo_photos(Path(temporary) / "photos")
            if captions:
                write_captions(folder)
            command = [sys.executable, str(ROOT / "cli.py")]
            subprocess.run(
                [*command, "index", ".", "--model", "mini", "-q"], cwd=folder, check=True
            )
            for name, arguments in queries(captions).items():
                search = [*command, "search", *arguments, "-k", "6", "-f", "json"]
                done = subprocess.run(search, cwd=folder, check=True, capture_output=True)
                kind = "with captions" if captions else "without captions"
                answers.setdefault(kind, {})[name] = kept(json.loads(done.stdout))
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
