"""Writes photos of a lake again with another fused embedding: nothing is encoded.

The parts wait to be committed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from indexes.arrays import Floats
from indexes.catalogue import Catalogue
from indexes.lake.embeddings import LakeEmbeddings
from indexes.lake.location import Location
from indexes.lake.manifest import Part
from indexes.lake.schema import PhotoRow
from indexes.lake.write_parts import write_photos


@dataclass
class Rewriter:
    """Parts that were written and not yet committed. catalogue: the mirror; embeddings: its own."""

    catalogue: Catalogue
    embeddings: LakeEmbeddings
    location: Location
    parts: list[Part] = field(default_factory=list)

    def put(self, ids: Sequence[int], fused: Floats, shares: Floats) -> None:
        """Write these photos with other fused embeddings, float32 [n, dim], and weights, [n]."""
        catalogue, dim = self.catalogue, fused.shape[1]
        photos, texts = catalogue.photos.get(ids), catalogue.captions.of_photos(ids)
        seen = self.embeddings.read(ids, dim, "seen")
        said = self.embeddings.captions_of(ids, dim)
        digests = self.embeddings.caption_digests_of(ids)
        rows = [
            PhotoRow(
                photos[i][0],
                seen[i],
                said[i],
                digests[i],
                fused[at],
                float(shares[at]),
                texts.get(i, ()),
            )
            for at, i in enumerate(ids)
        ]
        self.parts.append(write_photos(self.location, rows, dim))

    def take(self) -> list[Part]:
        """The parts, which are the caller's from now on."""
        parts, self.parts = self.parts, []
        return parts
