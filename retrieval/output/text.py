"""Results as text: hits as a table, JSON, JSON lines, CSV or bare paths; runs and indexes in words.

Nothing is printed here and nothing is computed: values in, text out.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from retrieval.indexing.options import Report
from retrieval.indexing.status import Status
from retrieval.photos.files import printable
from retrieval.query import Query
from retrieval.ranking.relevance import LEVELS, WEAK, Level, calibrated_text
from retrieval.search.hits import Hit

Format = Literal["table", "json", "jsonl", "csv", "paths"]


def as_row(hit: Hit) -> dict[str, Any]:
    """A hit as plain values; names that are not UTF-8 keep their bytes as surrogates."""
    photo = hit.photo
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "relevance": None if hit.relevance is None else round(hit.relevance, 4),
        "match": None if hit.match is None else round(hit.match, 4),
        "path": str(hit.path),
        "copies": [str(path) for path in hit.copies],
        "width": photo.width,
        "height": photo.height,
        "format": photo.format,
        "taken": photo.taken,
        "camera": photo.camera,
        "latitude": photo.latitude,
        "longitude": photo.longitude,
        "hash": photo.hash,
        "why": None
        if hit.why is None
        else {
            "photo_weight": _rounded(hit.why.photo),
            "caption_weight": _rounded(None if hit.why.photo is None else 1 - hit.why.photo),
            "terms": [_rounded(part) for part in hit.why.terms],
            "together": _rounded(hit.why.together),
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def explanation(query: Query, hits: Sequence[Hit]) -> str:
    """For each hit the weights of what is seen and what is said, each term's part, and how probably
    it matches where it was re-ranked by that, in words."""
    lines = []
    for hit in hits:
        if hit.why is None:
            continue
        seen = hit.why.photo
        weights = "no caption" if seen is None else f"photo {seen:.2f}, caption {1 - seen:.2f}"
        parts = [
            f"{'' if term.wanted else 'not '}{printable(term.value)} {part:+.3f}"
            for term, part in zip(query.terms, hit.why.terms, strict=True)
        ]
        if abs(hit.why.together) >= 0.0005:
            parts.append(f"together {hit.why.together:+.3f}")
        match = "" if hit.match is None else f"; match {100 * hit.match:.0f}%"
        lines.append(f"{hit.rank:>4}  {hit.score:.3f} = {', '.join(parts)}  ({weights}{match})")
    return "\n".join(lines)


def render(hits: Sequence[Hit], form: Format, nul: bool = False) -> bytes:
    """The hits as bytes for standard output. nul: end paths with NUL, for `xargs -0`."""
    if form == "paths":
        end = b"\0" if nul else b"\n"
        return b"".join(os.fsencode(hit.path) + end for hit in hits)
    rows = [as_row(hit) for hit in hits]
    if form == "json":
        return (json.dumps(rows, indent=2) + "\n").encode()
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if form == "csv":
        return _as_csv(rows)
    return _as_table(hits).encode()


def _as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    names = ["rank", "score", "relevance", "path", "copies", "width", "height", "format",
             "taken", "camera", "latitude", "longitude", "hash"]  # fmt: skip
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    for row in rows:
        row = {name: row[name] for name in names}
        writer.writerow({**row, "copies": "|".join(row["copies"])})
    return os.fsencode(buffer.getvalue())


def _as_table(hits: Sequence[Hit]) -> str:
    if not hits:
        return "No photo matches.\n"
    lines = [
        (
            f"{hit.rank}",
            f"{hit.score:.3f}",
            percentage(hit),
            _near(hit.path),
            printable((hit.photo.taken or "")[:10]),
        )
        for hit in hits
    ]
    wide = max(len(path) for *_, path, _ in lines)
    percent = "  {:>4}" if any(share for _, _, share, *_ in lines) else ""
    return "".join(
        f"{rank:>4}  {score:>6}{percent.format(share)}  {path:<{wide}}  {taken}".rstrip() + "\n"
        for rank, score, share, path, taken in lines
    )


def percentage(hit: Hit) -> str:
    """The relevance of a hit as '62%'; empty where it is not known."""
    return "" if hit.relevance is None else f"{100 * hit.relevance:.0f}%"


def verdict(query: Query, hits: Sequence[Hit], shown: Sequence[Hit], level: Level) -> list[str]:
    """What a user should know of how well hits match and of those that `level` left out: sentences,
    none where all is well."""
    known = [hit.relevance for hit in hits if hit.relevance is not None]
    if hits and not known and level != "all":
        if calibrated_text(query) is None:
            return ["Relevance is only known where one text is asked for: all hits are shown."]
        if all(hit.why is not None and hit.why.photo is not None for hit in hits):
            return ["Relevance is not known for photos with captions: all hits are shown."]
        return [
            "Relevance was not fitted for the model of this index: all hits are shown. "
            "`python -m retrieval.training.relevance --help` tells how to fit it."
        ]
    sentences = []
    if known and len(known) == len(hits) and max(known) < WEAK:
        sentences.append(
            f"No photo matches well: the best with {100 * max(known):.0f} %. Try other words, or "
            "name an example photo with --image."
        )
    if len(shown) < len(hits):
        sentences.append(
            f"{len(hits) - len(shown)} of {len(hits)} hits left out, below "
            f"{100 * LEVELS[level]:.0f} % relevance; --relevance all shows them."
        )
    return sentences


def _near(path: Path) -> str:
    """A path as one would type it from here: relative below the working directory."""
    here = Path.cwd()
    return printable(path.relative_to(here) if path.is_relative_to(here) else path)


def summary(report: Report) -> str:
    """What a run did, in a few lines."""
    counts = [("added", report.added), ("updated", report.updated), ("moved", report.moved),
              ("copied", report.copied), ("removed", report.removed),
              ("unchanged", report.unchanged), ("skipped", report.skipped),
              ("forgotten", report.pruned)]  # fmt: skip
    told = ", ".join(f"{n} {what}" for what, n in counts if n) or "no photos found"
    lines = [f"{told} in {report.seconds:.1f} s"]
    if report.encoded:
        lines[0] += f" ({report.photos_per_second:.0f} photos/s)"
    if report.captioned:
        new = f", {report.fused} photos fused with new ones" if report.fused else ""
        lines.append(f"captions for {report.captioned} of them{new}")
    for path, reason in report.reasons[:5]:
        lines.append(f"  skipped {printable(path)}: {reason}")
    if len(report.reasons) > 5:
        more = len(report.reasons) - 5
        lines.append(f"  and {more} more; `retrieval info --skipped` lists them")
    return "\n".join([*lines, *report.notes])


def status_text(status: Status, all_skipped: bool) -> str:
    """What an index holds, in a few lines. all_skipped: list every skipped file."""
    lines = [
        f"Index    {status.folder} ({status.bytes / 1e6:.1f} MB)",
        *(f"Folder   {printable(root)}" for root in status.roots),
        *([f"Without  {', '.join(status.excluded)}"] if status.excluded else []),
        f"Model    {status.model.name} (weights {status.model.fingerprint}, "
        f"{status.model.dim} dimensions, fusion {status.model.fusion})",
        f"Photos   {status.photos} in {status.files} files; {status.missing} gone from disk but "
        "not forgotten",
        f"On disk  {status.new} new, {status.changed} changed, {status.gone} missing since the "
        "last run"
        + ("; run `retrieval index`" if status.new or status.changed or status.gone else ""),
        f"Skipped  {status.skipped}",
    ]
    reasons = status.reasons if all_skipped else status.reasons[:5]
    lines += [f"  {printable(path)}: {reason}" for path, reason in reasons]
    if len(reasons) < len(status.reasons):
        lines.append(f"  and {len(status.reasons) - len(reasons)} more; --skipped lists them")
    return "\n".join(lines)


def status_json(status: Status) -> str:
    """What an index holds, as one JSON object. Its keys are fixed: programs read them."""
    fields = asdict(status)
    model = {"model": fields["model"].pop("name"), **fields["model"]}
    fields = {"made": model} | {name: value for name, value in fields.items() if name != "model"}
    return json.dumps(fields, indent=2, default=str)
