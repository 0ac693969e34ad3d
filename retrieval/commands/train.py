"""`retrieval train` and `retrieval train-fusion`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrieval.commands.options import (
    HeldOutOption,
    ImagesOption,
    LearnOption,
    QuietOption,
    SkipBadOption,
)
from retrieval.output.terminal import print_message, print_result, progress_line


def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Captioned photos, in any format of `benchmark recall`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the new model.")],
    model: Annotated[
        str, typer.Option(metavar="M", help="Where to start: mini, or a folder that this made.")
    ] = "mini",
    tune: Annotated[
        Literal["heads", "top", "all"],
        typer.Option(help="What learns: a minute, an hour, or a GPU's work for 6,000 photos."),
    ] = "heads",
    epochs: Annotated[int, typer.Option(min=1, help="At most so many times over all photos.")] = 16,
    split: LearnOption = None,
    held_out: HeldOutOption = None,
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More texts, a line each, whose meaning is to be kept."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another hyper-parameter (repeatable)."),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Adapt the built-in model to captioned photos; then `retrieval index --model DIR`.

    Run the same command again to go on after an interruption.
    """
    from retrieval.training.config import recipe_of
    from retrieval.training.mini import train
    from retrieval.training.options import TrainOptions

    progress = (lambda *_: None) if quiet else progress_line()
    options = TrainOptions(
        dataset=dataset,
        out=out,
        model=model,
        recipe=recipe_of(tune, epochs, settings or []),
        split=split,
        held_out=held_out,
        images=images,
        skip_bad=skip_bad,
        texts=texts,
        device=device,
        seed=seed,
    )
    log = (lambda _: None) if quiet else print_message
    try:
        done = train(options, log, progress)
    except KeyboardInterrupt:
        print_message("\nStopped. Run the same command again to go on after the last whole epoch.")
        raise typer.Exit(130) from None
    before, after = (" / ".join(f"{r:.1f}" for r in rs) for rs in (done.before, done.after))
    print_result(
        f"The model in {done.folder}: R@1 / R@5 / R@10 {after} on photos that were held out, "
        f"{before} before training ({done.epochs} epochs)."
    )
    if done.curve:
        print_result(f"Curve: {done.curve}")
    print_result(f"Use it: retrieval index FOLDER --model {done.folder}")


def train_fusion(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Photos with two captions or more, in any format of `benchmark recall`.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="M", help="As `retrieval index --model`.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Default: where searches look for it."),
    ] = None,
    split: LearnOption = None,
    held_out: HeldOutOption = None,
    images: ImagesOption = None,
    skip_bad: SkipBadOption = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same fusion.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Learn how to weigh photos against their captions, examples against words, and what matches.

    Takes minutes on a CPU. Then `retrieval fuse` brings an index to it.
    """
    from retrieval.training.fusion_run import train_fusion
    from retrieval.training.options import FusionTrainOptions

    progress = (lambda *_: None) if quiet else progress_line()
    log = (lambda _: None) if quiet else print_message
    options = FusionTrainOptions(
        dataset=dataset,
        model=model,
        out=out,
        split=split,
        held_out=held_out,
        images=images,
        skip_bad=skip_bad,
        seed=seed,
    )
    done = train_fusion(options, log, progress)
    print_result(
        f"The fusion in {done.file}: R@1 {done.after:.1f} on photos that were held out, over "
        f"right, swapped and missing captions; the plain mean {done.before:.1f}."
    )
    before, after = done.reranked
    print_result(
        f"Its matching beside it: R@1 and R@5 on average {before:.1f}, re-ranked by it {after:.1f}."
    )
    if done.curve:
        print_result(f"Curve: {done.curve}")
    print_result("Bring an index to it: retrieval fuse --index DIR")
