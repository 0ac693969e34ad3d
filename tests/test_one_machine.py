"""On one machine nothing of Ray, Milvus or Parquet is imported: an optional extra costs nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Also run where all extras are installed: elsewhere there is little to import.
pytestmark = pytest.mark.extras
NEVER = ("ray", "pymilvus", "milvus", "pyarrow", "pandas")
SCRIPT = """
import json, sys
import retrieval
from indexes.milvus.place import is_cluster
folder = sys.argv[1]
{work}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


@pytest.mark.parametrize(
    "work",
    [
        "retrieval.index(folder)",
        "retrieval.open(folder).search('a cat')",
        "import cli; from typer.main import get_command; get_command(cli.app)",
    ],
)
def test_nothing_of_a_cluster_is_imported(photos: Path, work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(work=work), str(photos)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert not set(json.loads(done.stdout.splitlines()[-1])) & set(NEVER)
