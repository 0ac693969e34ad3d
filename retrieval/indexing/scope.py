"""What a run covers: the folders to walk, the patterns of files, the lists of captions.

What the user names in one run is remembered in the index for later ones.
"""

from collections.abc import Sequence
from pathlib import Path

from indexes.errors import RetrievalError
from indexes.index import Index
from indexes.index_roots import Root
from indexes.paths import is_file, is_folder
from retrieval.errors import QueryError
from retrieval.indexing.options import Options
from retrieval.photos.files import as_on_disk
from retrieval.photos.walk import is_below


def find_scopes(index: Index, folders: Sequence[Path]) -> tuple[list[tuple[Root, str]], list[str]]:
    """The roots to walk, each with the path in it to start from, and sentences on those away."""
    if folders:
        for folder in folders:
            index.add_root(folder)
        # Adding one folder may change which root holds another, so they are looked up at the end.
        scopes = {index.add_root(folder) for folder in folders}
        return [
            (root, under)
            for root, under in sorted(scopes, key=lambda scope: (scope[0].id, scope[1]))
            if not any(
                (root, under) != (other, outer) and root == other and is_below(under, outer)
                for other, outer in scopes
            )
        ], []
    roots = index.roots()
    here = [root for root in roots if is_folder(root.path)]
    return [(root, "") for root in here], [
        f"The folder {root.path} is not there now; its photos stay in the index."
        for root in roots
        if root not in here
    ]


def remember_patterns(index: Index, options: Options) -> None:
    """Store the patterns of files to leave out and to bring in, if this run has any."""
    if options.exclude is not None:
        index.set_excluded([_pattern(text, "--exclude") for text in options.exclude])
    if options.include is not None:
        index.set_included([_pattern(text, "--include") for text in options.include])


def _pattern(text: str, option: str) -> str:
    """A pattern as it is matched: against names and paths inside a folder."""
    if Path(text).is_absolute():
        raise QueryError(
            f"{option} {text} cannot match: patterns are of names and of paths inside the indexed "
            "folder, such as 'private' or 'holidays/*.png'."
        )
    return text.removeprefix("./").rstrip("/")


def caption_lists(index: Index, options: Options) -> tuple[list[Path], list[str]]:
    """The caption files that can be read, and sentences about the others.

    Those of this run, if it has any, are remembered.
    """
    if options.captions is not None:
        named = [as_on_disk(file) for file in options.captions]
        for file in named:
            if not is_file(file):
                raise RetrievalError(f"There is no file {file}. Name a list of captions.")
        index.set_caption_files([file.absolute() for file in named])
    lists = index.caption_files()
    here = [file for file in lists if is_file(file)]
    return here, [
        f"The caption file {file} is not there now; pass --captions '' to stop using it."
        for file in lists
        if file not in here
    ]
