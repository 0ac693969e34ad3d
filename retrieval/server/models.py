"""The values of the HTTP API, version 1: what programs send and get, checked and documented.

Nothing is computed here. A photo is named by its content hash, a folder by a hash of its path: no
path is ever taken from a request.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from retrieval.server.options import LIMITS

PhotoId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FolderId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Date = Annotated[str, StringConstraints(max_length=20)]
Name = Annotated[str, StringConstraints(max_length=200)]
Ranking = Literal["auto", "plain", "nnn", "qbnorm", "templates", "expansion", "hybrid"]
Level = Literal["strict", "normal", "all"]
Verdict = Literal["good", "weak", "none", "unknown"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Term(_Request):
    """A part of a query: a text, a photo of the index, or an example that was uploaded."""

    kind: Literal["text", "photo", "example"]
    text: Annotated[str, StringConstraints(max_length=LIMITS.text)] | None = Field(
        default=None, description="For `text`: what to look for, in words."
    )
    id: PhotoId | None = Field(default=None, description="For `photo` and `example`: which one.")
    wanted: bool = Field(default=True, description="False for what is not wanted.")
    weight: float = Field(default=1.0, gt=0, le=100, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_its_value(self) -> "Term":
        if self.kind == "text" and not (self.text and self.text.strip()):
            raise ValueError("A term of kind text needs a text.")
        if self.kind != "text" and self.id is None:
            raise ValueError(f"A term of kind {self.kind} needs an id.")
        return self


class Filters(_Request):
    """Which photos may be found."""

    folders: list[FolderId] = Field(
        default=[], max_length=50, description="In one of these folders."
    )
    after: Date | None = Field(default=None, description="Taken on this day or later: 2024-05-17.")
    before: Date | None = Field(default=None, description="Taken before this day.")
    cameras: list[Name] = Field(default=[], max_length=50, description="Taken by one of these.")
    captioned: bool | None = Field(default=None, description="With a caption, or without.")
    place: Name | None = Field(
        default=None, description="In this city, region or country; commas separate several."
    )
    near: Name | None = Field(default=None, description="Near a city, or `LATITUDE,LONGITUDE`.")
    near_km: float = Field(default=25.0, gt=0, le=25_000, description="How far `near` looks.")


class SearchRequest(_Request):
    """A query. Without terms it lists photos, the latest first."""

    terms: list[Term] = Field(default=[], max_length=LIMITS.terms)
    filters: Filters = Filters()
    ranking: Ranking = "auto"
    rerank: Literal["none", "match"] = "none"
    relevance: Level = Field(
        default="all",
        description="`normal` and `strict` leave out hits below 10% and 30% relevance.",
    )
    sort: Literal["relevance", "date"] = "relevance"
    leave_out_examples: bool = Field(
        default=False, description="Whether photos that are terms are left out of the hits."
    )
    min_score: float | None = Field(default=None, ge=-1, le=1, description="The lowest cosine.")
    explain: bool = Field(default=False, description="Whether hits tell how they were scored.")
    k: int = Field(default=60, ge=1, le=LIMITS.page, description="The most hits in this answer.")
    cursor: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None,
        description="`next` of the answer before, with the same query: continues there.",
    )


class Explanation(BaseModel):
    """How a score was computed: the parts sum to it."""

    photo_weight: float | None = Field(description="α of the photo; β of its captions is the rest.")
    terms: list[float] = Field(description="The part of each term, in their order.")
    together: float = Field(description="What belongs to no term alone.")


class Hit(BaseModel):
    """A photo that was found. Sizes in pixels."""

    id: PhotoId
    rank: int
    score: float | None = Field(description="The cosine of query and photo; none without terms.")
    relevance: float | None = Field(description="The probability that it matches, if known.")
    match: float | None
    name: str
    path: str
    copies: list[str]
    width: int
    height: int
    format: str
    taken: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    taken_offset: str | None
    taken_source: str | None
    place_source: str | None
    city: str | None
    region: str | None
    country: str | None
    caption: str | None = Field(description="The first caption.")
    explanation: Explanation | None = Field(description="With `explain` alone.")


class SearchResponse(BaseModel):
    """Hits, best first."""

    hits: list[Hit]
    next: str | None = Field(description="The cursor for more hits; none at the end.")
    verdict: Verdict = Field(
        description="weak: no photo matches well; none: nothing was found; unknown: relevance is "
        "not known."
    )
    likely: float = Field(description="Hits of a lower relevance are less likely to match.")
    seconds: float


class Caption(BaseModel):
    """A text about a photo. origin: the file it was read from."""

    text: str
    origin: str


class Place(BaseModel):
    """A file with the content of a photo."""

    path: str
    name: str
    folder: FolderId
    folder_path: str


class Details(BaseModel):
    """All that is known of a photo."""

    id: PhotoId
    width: int
    height: int
    format: str
    taken: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    taken_offset: str | None = Field(description="Of `taken` from UTC.")
    taken_source: str | None = Field(description="Where `taken` was found.")
    place_source: str | None = Field(description="Where the coordinates were found.")
    place: str = Field(description="The names of the place, the smallest first.")
    captions: list[Caption]
    files: list[Place]


class Folder(BaseModel):
    """An indexed folder, or one below it. photos: the files in it and in its subfolders."""

    id: FolderId
    parent: FolderId | None
    name: str
    path: str
    photos: int


class Month(BaseModel):
    """A month, `2024-05`, and how many photos were taken in it."""

    month: str
    photos: int


class Camera(BaseModel):
    """A camera and how many photos it took."""

    name: str
    photos: int


class PlaceName(BaseModel):
    """A city, region or country and how many photos were taken there."""

    name: str
    photos: int


class Overview(BaseModel):
    """What photos can be filtered by."""

    folders: list[Folder]
    months: list[Month]
    cameras: list[Camera]
    places: list[PlaceName]
    captioned: bool = Field(description="Whether any photo has a caption.")


class Example(BaseModel):
    """An uploaded example photo, to be used as a term: kind and id as the term takes them."""

    kind: Literal["photo", "example"]
    id: PhotoId
    width: int
    height: int


class Selection(_Request):
    """Photos that were selected."""

    ids: list[PhotoId] = Field(min_length=1, max_length=LIMITS.selected)


class Export(BaseModel):
    """Where a selection can be downloaded from. left_out: photos that are no longer there."""

    zip: str
    csv: str
    photos: int
    left_out: int


class Indexing(BaseModel):
    """An index run. state: what it does; done, total, skipped: files."""

    state: Literal["idle", "running", "failed"]
    done: int = 0
    total: int = 0
    skipped: int = 0
    what: str = "photos"
    message: str = Field(default="", description="The summary of the last run, or why it failed.")
    watching: bool = False


class Status(BaseModel):
    """What is indexed."""

    version: str
    model: str
    fusion: str
    photos: int
    missing: int
    files: int
    skipped: int
    indexing: Indexing


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error, as RFC 9457 has it. detail: a sentence for people."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
