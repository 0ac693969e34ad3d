"""How many rows a Parquet file has, of which it is not known whether it is one."""

from indexes.errors import StorageError
from indexes.lake.location import Location


def row_count(location: Location, name: str) -> int | None:
    """The rows of a file; None if it is gone or no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with location.open(name) as source, pq.ParquetFile(source) as file:
            return int(file.metadata.num_rows)
    except (pa.ArrowException, OSError, StorageError):
        return None
