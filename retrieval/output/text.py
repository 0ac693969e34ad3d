"""Results as text: hits as a table, JSON, JSON lines, CSV or paths; runs and indexes in words.

Values in, text out: nothing is printed or computed here.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from indexes.vectors.store import About
from retrieval.encoders.registry import UNCHECKED
from retrieval.indexing.options import Report
from retrieval.indexing.status import Status
from retrieval.output.facts import place, taken
from retrieval.output.table import as_table
from retrieval.photos.files import printable
from retrieval.query import Query
from retrieval.ranking import methods
from retrieval.ranking.relevance import LEVELS, WEAK, Level, calibrated_text
from retrieval.search.hits import Explanation, Hit

if TYPE_CHECKING:  # a search prints its hits with this module
    from retrieval.transfer.importing import ImportReport

_FORMULA_STARTS = ("=", "+", "-", "@")
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
        "taken_offset": photo.taken_offset,
        "taken_source": photo.taken_source,
        "camera": photo.camera,
        "latitude": photo.latitude,
        "longitude": photo.longitude,
        "place_source": photo.place_source,
        "city": photo.city or None,
        "region": photo.region or None,
        "country": photo.country or None,
        "hash": photo.hash,
        "why": None if hit.explanation is None else _explanation_row(hit.explanation),
    }


def _explanation_row(explanation: Explanation) -> dict[str, Any]:
    weight = explanation.photo_weight
    return {
        "photo_weight": _rounded(weight),
        "caption_weight": _rounded(None if weight is None else 1 - weight),
        "terms": [_rounded(part) for part in explanation.terms],
        "together": _rounded(explanation.joint),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def explain(query: Query, hits: Sequence[Hit]) -> str:
    """How each hit's score was computed, a line each.

    A line has each term's part, the weights of photo and captions and, for a hit that matching
    re-ranked, its probability. A second line has when and where the photo was taken, and how that
    is known.
    """
    lines = []
    for hit in hits:
        how = hit.explanation
        if how is None:
            continue
        weights = "no caption"
        if how.photo_weight is not None:
            weights = f"photo {how.photo_weight:.2f}, caption {1 - how.photo_weight:.2f}"
        parts = [
            f"{'' if term.wanted else 'not '}{printable(term.value)} {part:+.3f}"
            for term, part in zip(query.terms, how.terms, strict=True)
        ]
        if abs(how.joint) >= 0.0005:
            parts.append(f"together {how.joint:+.3f}")
        match = "" if hit.match is None else f"; match {100 * hit.match:.0f}%"
        lines.append(f"{hit.rank:>5}  {hit.score:.3f} = {', '.join(parts)}  ({weights}{match})")
        if known := [fact for fact in (taken(hit.photo), place(hit.photo)) if fact]:
            lines.append(f"{'':>5}  {'; '.join(known)}")
    return "\n".join(lines)


def render(hits: Sequence[Hit], form: Format, nul: bool = False, width: int | None = None) -> bytes:
    """The hits as bytes for standard output.

    nul: end paths with NUL, for `xargs -0`; width: fit a table to so many columns.
    """
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
    return as_table(hits, width).encode()


def _as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    names = ["rank", "score", "relevance", "path", "copies", "width", "height", "format",
             "taken", "taken_offset", "taken_source", "camera", "latitude", "longitude",
             "place_source", "city", "region", "country", "hash"]  # fmt: skip
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    for row in rows:
        cells = {name: row[name] for name in names} | {"copies": "|".join(row["copies"])}
        writer.writerow({name: _csv_cell(value) for name, value in cells.items()})
    return os.fsencode(buffer.getvalue())


def _csv_cell(value: object) -> object:
    """A value for a spreadsheet: no text is a formula there or controls a terminal.

    JSON and `paths` give texts as they are. Bytes that are not UTF-8 stay surrogates.
    """
    if not isinstance(value, str):
        return value
    clean = "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else "\N{REPLACEMENT CHARACTER}"
        for c in value
    )
    return f"'{clean}" if clean.startswith(_FORMULA_STARTS) else clean


def verdict(
    query: Query, hits: Sequence[Hit], shown: Sequence[Hit], level: Level, ranking: str = "auto"
) -> list[str]:
    """Sentences about how well hits match and which `level` left out; none if all is well.

    shown: the hits that are left; ranking: the name of the one that found them.
    """
    known = [hit.relevance for hit in hits if hit.relevance is not None]
    if hits and not known and level != "all":
        if methods.ranking(ranking).changes_query:
            return [
                "Relevance is not known with --ranking templates or expansion: all hits are shown."
            ]
        if calibrated_text(query) is None:
            return ["Relevance is known only for queries of one text: all hits are shown."]
        return [
            "Relevance was not fitted for the model of this index, or the hits were found by their "
            "names: all are shown. `python -m retrieval.training.relevance --help` shows how to "
            "fit it."
        ]
    sentences = []
    if known and len(known) == len(hits) and max(known) < WEAK:
        sentences.append(
            f"No photo matches well: the best has {100 * max(known):.0f}% relevance. Try other "
            "words, or name an example photo with --image."
        )
    if len(shown) < len(hits):
        sentences.append(
            f"{len(hits) - len(shown)} of {len(hits)} hits left out, below "
            f"{100 * LEVELS[level]:.0f}% relevance; --relevance all shows them."
        )
    return sentences


def summary(report: Report) -> str:
    """What a run did, in a few lines."""
    counts = [("added", report.added), ("updated", report.updated), ("moved", report.moved),
              ("copied", report.copied), ("removed", report.removed),
              ("unchanged", report.unchanged), ("skipped", report.skipped),
              ("forgotten", report.pruned)]  # fmt: skip
    done = ", ".join(f"{n} {what}" for what, n in counts if n) or "no photos found"
    lines = [f"{done} in {report.seconds:.1f} s"]
    if report.encoded:
        lines[0] += f" ({report.photos_per_second:.0f} photos/s)"
    if report.captioned:
        new = f", {report.fused} photos fused with new captions" if report.fused else ""
        lines.append(f"captions for {report.captioned} of them{new}")
    if report.reread:
        lines.append(f"dates, places and texts in {report.reread} photos read again")
    for path, reason in report.reasons[:5]:
        lines.append(f"  skipped {printable(path)}: {reason}")
    if len(report.reasons) > 5:
        more = len(report.reasons) - 5
        lines.append(f"  and {more} more; `retrieval info --skipped` lists them")
    return "\n".join([*lines, *report.notes])


def import_summary(report: "ImportReport") -> str:
    """What an import did, in a few lines."""
    lines = [
        f"{report.photos:,} photos imported from {report.rows:,} embeddings into {report.folder}; "
        f"{report.at_hand:,} have their files here, {report.captioned:,} have captions"
    ]
    if report.refused:
        lines.append(f"{report.refused:,} embedding(s) left out:")
        lines += [f"  row {row:,}: {printable(reason)}" for row, reason in report.reasons[:5]]
        if report.refused > len(report.reasons[:5]):
            lines.append(f"  and {report.refused - len(report.reasons[:5]):,} more")
    if report.model.fingerprint != UNCHECKED:
        lines.append(
            f"model {report.model.name}: "
            + ("samples agree with it" if report.checked else "there was no sample to check it by")
        )
    return "\n".join(lines)


def status_text(status: Status, all_skipped: bool) -> str:
    """What an index holds, in a few lines. all_skipped: list every skipped file."""
    lines = [
        f"Index    {printable(status.address)} ({status.bytes / 1e6:.1f} MB)",
        *(f"Folder   {printable(root)}" for root in status.roots),
        *([f"Exclude  {', '.join(status.excluded)}"] if status.excluded else []),
        *([f"Include  {', '.join(status.included)}"] if status.included else []),
        f"Model    {status.model.name} (weights {status.model.fingerprint}, "
        f"{status.model.dim} dimensions, fusion {status.model.fusion})",
        *([f"Vectors  {_vectors(status.vectors)}"] if status.vectors else []),
        f"Photos   {status.photos} in {status.files} files; {status.missing} missing from disk, "
        "kept in the index",
        *([f"Taken    {_sources(status)}"] if status.dates else []),
        *([f"Places   known for {status.places} photos"] if status.places else []),
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


def _vectors(about: About) -> str:
    """How the vectors of an index are searched."""
    if about.kind == "exact":
        return "exact: every photo is compared"
    if not about.queries:  # the engine of many machines has not been measured here
        return about.kind
    recall = "unknown" if about.recall is None else f"{100 * about.recall:.1f}%"
    return (
        f"{about.kind}, which finds {recall} of the exact first 10 (measured on {about.queries} "
        f"{'texts' if about.queries_are == 'texts' else 'photos'})"
    )


def _sources(status: Status) -> str:
    """How many photos have their time from where."""
    parts = [f"{count} by {source}" for source, count in status.dates.items() if source]
    unknown = status.dates.get("", 0)
    return printable(", ".join([*parts, *([f"{unknown} unknown"] if unknown else [])]))


def status_json(status: Status) -> str:
    """What an index holds, as one JSON object. Its keys are fixed: programs read them."""
    fields = asdict(status)
    model = {"model": fields["model"].pop("name"), **fields["model"]}
    fields = {"made": model} | {name: value for name, value in fields.items() if name != "model"}
    return json.dumps(fields, indent=2, default=str)
