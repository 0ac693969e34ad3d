"""The first hits drawn in the terminal: as pictures where it can show them, else as half blocks.

Photos are decoded by the rules for hostile files. Needs the extra `show`.
"""

import sys
from collections.abc import Sequence

from indexes.errors import RetrievalError
from retrieval.errors import PhotoError
from retrieval.output.table import percentage
from retrieval.photos.decode import load_photo
from retrieval.photos.decoder_processes import DecoderProcesses
from retrieval.photos.files import printable
from retrieval.search.hits import Hit

_PIXELS = 640  # decoded, of the shorter side at least
_ROWS = 12  # of the terminal, for one photo


def draw(hits: Sequence[Hit], captions: Sequence[str]) -> None:
    """Draw hits on standard output, each over its path and its captions.

    captions: of each hit as one text, '' for none. Raises RetrievalError without the extra `show`.
    """
    try:
        from rich.console import Console
        from textual_image.renderable import Image
    except ImportError as error:
        raise RetrievalError(
            f"`search --show` needs the package {error.name}: "
            "`pip install 'crossmodal-retrieval[show]'`, then run the same command again."
        ) from error
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    with DecoderProcesses() as processes:
        for hit, caption in zip(hits, captions, strict=True):
            try:
                photo = load_photo(hit.path, _PIXELS // 2, processes=processes)
            except PhotoError as error:
                console.print(Text(printable(str(error))))
                continue
            photo.thumbnail((2 * _PIXELS, _PIXELS))
            columns = min(console.width - 2, round(2 * _ROWS * photo.width / photo.height))
            console.print(Image(photo, width=max(columns, 2), height=_ROWS))
            facts = " · ".join(filter(None, (str(hit.rank), percentage(hit), str(hit.path))))
            console.print(Text(printable(facts), style="bold"), soft_wrap=True)
            if caption:
                console.print(Text(printable(caption)), soft_wrap=True)
