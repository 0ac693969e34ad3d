"""The first hits of the page: the query of its address is asked while the page is being sent.

The browser then shows photos as soon as its scripts run, without another request. The page checks
that the answer is to what it would have asked, and asks itself if it is not: static/state.js
decides what an address means, and this follows it.
"""

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from retrieval.server import models
from retrieval.server.options import LIMITS

HITS = 60
"""In the page, as `FIRST` in static/main.js."""
_KINDS = {"t": "text", "p": "photo", "e": "example"}
_WEIGHTED = re.compile(r"(.*)~([0-9]*\.?[0-9]+)", re.DOTALL)
_ID = re.compile("[0-9a-f]{64}")
_MOST_FIELDS = 200  # of an address
_SHOWN = {"id", "rank", "score", "relevance", "name", "path", "width", "height", "caption"}


def asked(address: str) -> dict[str, Any]:
    """The request of the API that the page makes for the query of an address, `t=dog&sort=date`.

    Raises ValueError for too many fields.
    """
    terms: list[dict[str, Any]] = []
    filters: dict[str, Any] = {
        "folders": [],
        "cameras": [],
        "after": None,
        "before": None,
        "captioned": None,
        "place": None,
    }
    sort, relevance = "relevance", "all"
    for key, value in parse_qsl(address, keep_blank_values=True, max_num_fields=_MOST_FIELDS):
        if key in _KINDS:
            term = _term(_KINDS[key], value)
            if term is not None and len(terms) < LIMITS.terms:
                terms.append(term)
        elif key in ("folder", "camera"):
            filters[f"{key}s"].append(value)
        elif key in ("after", "before", "place"):
            filters[key] = value or None
        elif key == "captioned":
            filters[key] = value == "yes"
        elif key == "sort" and value == "date":
            sort = value
        elif key == "show" and value in ("normal", "strict"):
            relevance = value
    return {
        "terms": terms,
        "filters": filters,
        "sort": sort,
        "relevance": relevance,
        "leave_out_examples": True,
        "k": HITS,
        "cursor": None,
    }


def _term(kind: str, value: str) -> dict[str, Any] | None:
    wanted = not value.startswith("-")
    value, weight = value.removeprefix("-"), 1.0
    found = _WEIGHTED.fullmatch(value)
    if found and 0 < float(found[2]) <= 100:
        value, weight = found[1], float(found[2])
    value = value.removeprefix("\\")
    if kind == "text":
        known = {"kind": kind, "text": value} if value.strip() else None
    else:
        known = {"kind": kind, "id": value} if _ID.fullmatch(value) else None
    return known and {**known, "wanted": wanted, "weight": weight}


def data(request: dict[str, Any], found: models.SearchResponse) -> bytes:
    """A request and its answer as an element of the page that no browser runs."""
    answer = found.model_dump(mode="json", exclude={"hits"})
    answer["hits"] = [hit.model_dump(mode="json", include=_SHOWN) for hit in found.hits]
    text = json.dumps({"asked": request, "found": answer}, ensure_ascii=False)
    text = text.replace("<", "\\u003c")  # names and captions must not end the element
    return f'<script id="first" type="application/json">{text}</script>\n'.encode()
