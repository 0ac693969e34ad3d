"""The command line: puts the groups of commands together, nothing else.

The commands are in `retrieval.commands` and `benchmarks.commands`. Results go to standard output;
messages and progress go to standard error. Heavy modules are imported inside the commands that need
them, so `--help` and `search` start fast.
"""

import typer

from benchmarks.commands import app as benchmark
from retrieval.commands.check import check
from retrieval.commands.demo import demo
from retrieval.commands.index import index
from retrieval.commands.main import Commands, run
from retrieval.commands.manage import fuse, info, remove
from retrieval.commands.mcp import mcp
from retrieval.commands.search import search, similar
from retrieval.commands.serve import serve
from retrieval.commands.train import train, train_fusion
from retrieval.commands.transfer import export, import_embeddings

app = typer.Typer(
    cls=Commands,
    help="Find photos by describing them: text, example photos or both, on your own machine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(index, search, similar, serve, mcp, info, check, remove, fuse),
    *(import_embeddings, export, demo, train, train_fusion),
):
    app.command()(command)
app.add_typer(benchmark, name="benchmark")


def main() -> None:
    """Run the command line; every error is one sentence, exit code 1 (2 for usage)."""
    run(app)


if __name__ == "__main__":
    main()
