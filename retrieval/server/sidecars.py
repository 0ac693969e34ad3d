"""The user's own captions and keywords as XMP sidecars, the form that other programs read.

They are offered as a zip to unpack over the photos: the server writes nothing beside them.
"""

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

from indexes.index import Index
from indexes.notes import Note
from retrieval.errors import QueryError

_PACKET = """<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">{parts}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
_DESCRIPTION = """
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt>
   </dc:description>"""
_SUBJECT = """
   <dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>"""


def as_xmp(notes: Sequence[Note]) -> str:
    """An XMP packet: captions as `dc:description`, a line each, keywords as `dc:subject`."""
    captions = [note.text for note in notes if note.kind == "caption"]
    keywords = [note.text for note in notes if note.kind == "keyword"]
    parts = ""
    if captions:
        parts += _DESCRIPTION.format(text=escape("\n".join(captions)))
    if keywords:
        items = "".join(f"<rdf:li>{escape(word)}</rdf:li>" for word in keywords)
        parts += _SUBJECT.format(items=items)
    return _PACKET.format(parts=parts)


def as_sidecars(index: Index, hashes: Sequence[str]) -> bytes:
    """A zip of `PHOTO.EXT.xmp` in the folders of the photos, for those that have notes.

    Raises QueryError if none has.
    """
    numbers = index.catalogue.photos.ids(hashes)
    notes = index.catalogue.notes.of_photos(sorted(numbers.values()))
    photos = index.catalogue.photos.get(notes)
    roots = {root.id: root.path.name for root in index.roots()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, of_photo in notes.items():
            for root_id, path in photos[number][1]:
                if root_id in roots:
                    name = f"{roots[root_id]}/{path}.xmp".encode("utf-8", "replace").decode()
                    archive.writestr(name, as_xmp(of_photo))
    if not notes:
        raise QueryError("None of these photos has a caption or keyword of your own.")
    return buffer.getvalue()
