"""The cases of the fuzzer: whole files of every format that is read, and copies that are damaged.

A case is a folder. `write_case` gives the same one for the same files, target, seed and number.
Number 0 is not damaged.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import SHARED
from tests.fuzz import mutate
from tests.tiny_models import OPEN_CLIP_CONFIG, write_mini, write_open_clip

Chance = random.Random


def write_case(target: str, seeds: Path, seed: int, number: int, folder: Path) -> None:
    """Write case `number` of a target to `folder`, which must not exist."""
    chance = random.Random(f"{target} {seed} {number}") if number else None
    TARGETS[target](seeds, folder, chance)


def write_seeds(seeds: Path) -> None:
    """Write the whole files that cases are made from."""
    from retrieval.demo import copy_demo_photos

    originals = copy_demo_photos(seeds / "demo")
    write_mini(seeds / "model")
    _write_photos(originals / "china.jpg", seeds / "photos")
    _write_captions(originals, seeds / "captions")
    _write_sets(seeds)
    _write_index(seeds)
    _write_checkpoints(seeds)
    _write_weights(seeds / "weights")


# Whole files -----------------------------------------------------------------------------------


def _write_photos(original: Path, folder: Path) -> None:
    import pillow_heif
    import tifffile

    from tests import test_pixels

    folder.mkdir(parents=True)
    with Image.open(original) as opened:
        photo = opened.convert("RGB").resize((160, 120))
    photo.save(folder / "plain.jpg", progressive=True)
    photo.save(folder / "plain.png")
    photo.convert("RGBA").save(folder / "alpha.png")
    photo.convert("P").save(folder / "palette.gif", save_all=True, append_images=[photo] * 2)
    photo.save(folder / "plain.bmp")
    photo.save(folder / "plain.webp")
    photo.save(folder / "plain.avif")
    photo.save(folder / "plain.jp2")
    photo.save(folder / "plain.ppm")
    photo.save(folder / "two.mpo", save_all=True, append_images=[photo])
    for name, make in test_pixels.MAKERS.items():
        if name.endswith((".psd", ".j2k", ".pnm")):
            (folder / name).write_bytes(make(photo))
    for name, (mode, icc) in test_pixels.PROFILES.items():
        photo.convert(mode).save(folder / f"{name}.jpg", icc_profile=icc)
    tifffile.imwrite(folder / "deep.tiff", np.asarray(photo).astype(np.float32) / 255)
    tifffile.imwrite(
        folder / "planar.tiff",
        np.moveaxis(np.asarray(photo).astype(np.uint16) * 257, -1, 0),
        planarconfig="separate",
        photometric="rgb",
        compression="zlib",
    )
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        photo.save(folder / f"{compression}.tiff", compression=compression)
    grey16 = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    grey16.save(folder / "grey16.tiff")
    grey16.save(folder / "grey16.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    pillow_heif.from_pillow(photo).save(folder / "plain.heic")
    exif = photo.getexif()
    exif[0x010E], exif[0x0112], exif[271] = "A temple in China", 6, "Maker"
    exif.get_ifd(0x8769)[36867] = "2019:07:14 18:30:05"
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 51.0, 35.9), 3: "E", 4: (151.0, 12.0, 40.0)})
    xmp = _XMP.encode()
    photo.save(folder / "exif.jpg", exif=exif, xmp=xmp)
    photo.save(folder / "exif.png", exif=exif)
    photo.save(folder / "exif.webp", exif=exif, xmp=xmp)
    try:
        from tests.test_bad_input import write_dng

        write_dng(folder / "camera.dng", original)
    except ImportError:
        pass  # an extra
    for name in ("heic", "text-encodings", "dates"):
        for file in sorted((SHARED / "cases" / name).glob("*.*")):
            shutil.copyfile(file, folder / file.name)


_XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Headline="A temple">'
    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">A temple in China</rdf:li></rdf:Alt>'
    "</dc:description><dc:subject><rdf:Bag><rdf:li>temple</rdf:li><rdf:li>sky</rdf:li></rdf:Bag>"
    '</dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)


def _write_captions(originals: Path, folder: Path) -> None:
    """Two photos, and all kinds of files that have captions of them."""
    (folder / "lists").mkdir(parents=True)
    for name in ("china.jpg", "rocket.jpg"):
        with Image.open(originals / name) as opened:
            opened.convert("RGB").resize((64, 64)).save(folder / name)
    rows = [("china.jpg", "A temple, with a roof"), ("rocket.jpg", 'A "rocket" on its pad')]
    lines = [json.dumps({"image": image, "caption": text}) for image, text in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    table = "".join(f'{image},"{text.replace(chr(34), chr(34) * 2)}"\n' for image, text in rows)
    (folder / "captions.csv").write_text("image,caption\n" + table)
    (folder / "metadata.jsonl").write_text('{"file_name": "china.jpg", "text": "A temple"}\n')
    (folder / "captions.txt").write_text("image,caption\nchina.jpg,A temple of wood\n")
    (folder / "china.txt").write_text("A temple\nin China\n")
    (folder / "china.xmp").write_text('<?xml version="1.0" encoding="UTF-8"?>\n' + _XMP)
    (folder / "rocket.jpg.xmp").write_text(_XMP)
    (folder / "china.jpg.supplemental-metadata.json").write_text(
        '{"title": "china.jpg", "description": "A temple", "people": [{"name": "Anna"}], '
        '"photoTakenTime": {"timestamp": "1249625104"}, '
        '"geoData": {"latitude": 39.9, "longitude": 116.4}}'
    )
    (folder / "Photo Details.csv").write_text(
        'imgName,originalCreationDate\nrocket.jpg,"Friday August 7,2009 6:05 AM GMT"\n'
    )


def _write_sets(seeds: Path) -> None:
    """Captioned sets: lists, COCO's JSON, and tars."""
    import tarfile

    folder = seeds / "sets"
    folder.mkdir()
    for name in ("captions.jsonl", "captions.csv"):
        shutil.copyfile(seeds / "captions" / name, folder / name)
    coco = {
        "images": [{"id": 1, "file_name": "china.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "A temple"}],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    sentences = [{"raw": "A temple"}]
    karpathy = {"images": [{"filename": "china.jpg", "split": "val", "sentences": sentences}]}
    (folder / "karpathy.json").write_text(json.dumps(karpathy))
    (folder / "names.json").write_text('{"china.jpg": ["A temple"], "rocket.jpg": "A rocket"}')
    (folder / "results.token").write_text("china.jpg#0\tA temple\nrocket.jpg#0\tA rocket\n")
    captions = folder / "0.json"
    captions.write_text('{"caption": "A temple"}')
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in range(3):
            tar.add(seeds / "captions" / "china.jpg", f"{number}.jpg")
            tar.add(seeds / "captions" / "china.txt", f"{number}.txt")
            tar.add(captions, f"{number}.json")
    captions.unlink()
    for name in ("caption-lists", "tars"):
        for file in sorted((SHARED / "cases" / name).glob("*.*")):
            if file.stat().st_size < 1 << 20:
                shutil.copyfile(file, folder / file.name)


def _write_index(seeds: Path) -> None:
    import retrieval

    folder = seeds / "index"
    shutil.copytree(seeds / "captions", folder)
    for file in sorted((seeds / "photos").glob("plain.*")):
        shutil.copyfile(file, folder / file.name)
    retrieval.index(folder, model=str(seeds / "model"))
    with retrieval.open(folder) as photos:
        photos.search("a temple", ranking="nnn")
    index = folder / ".retrieval"
    for name in ("holder.json", "lock"):  # remain of a run that was killed
        if not (index / name).exists():
            (index / name).write_text('{"pid": 1, "host": "elsewhere", "started": 0}')


def _write_checkpoints(seeds: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = seeds / "checkpoint"
    folder.mkdir()
    write_open_clip(folder / "open_clip_model.safetensors")
    for file in folder.glob("*.json"):
        file.unlink()
    torch.save(load_file(folder / "open_clip_model.safetensors"), folder / "open_clip_model.pt")
    config = {
        "model_cfg": OPEN_CLIP_CONFIG,
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def _write_weights(folder: Path) -> None:
    from retrieval.encoders.mini.model_folder import WEIGHTS

    folder.mkdir()
    for name in ("fusion.safetensors", "fusion.matching.safetensors", "relevance.json"):
        shutil.copyfile(WEIGHTS / name, folder / name)
    (bank,) = WEIGHTS.glob("bank-*.npy")
    shutil.copyfile(bank, folder / bank.name)


# Damaged copies --------------------------------------------------------------------------------


def _photos(seeds: Path, folder: Path, chance: Chance | None) -> None:
    """A whole photo and eight damaged ones; all of them in case 0."""
    folder.mkdir()
    shutil.copyfile(seeds / "captions" / "rocket.jpg", folder / "good.jpg")
    files = sorted((seeds / "photos").iterdir())
    for number, file in enumerate(chance.choices(files, k=8) if chance else files):
        data = file.read_bytes()
        (folder / f"{number}-{file.name}").write_bytes(
            mutate.mutate_bytes(data, chance) if chance else data
        )


def _captions(seeds: Path, folder: Path, chance: Chance | None) -> None:
    shutil.copytree(seeds / "captions", folder)
    shutil.copyfile(folder / "rocket.jpg", folder / "good.jpg")
    if chance:
        texts = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix != ".jpg")
        for file in chance.sample(texts, 3):
            _damage(file, chance)


def _set(seeds: Path, folder: Path, chance: Chance | None) -> None:
    folder.mkdir()
    for name in ("china.jpg", "rocket.jpg"):
        shutil.copyfile(seeds / "captions" / name, folder / name)
    files = sorted((seeds / "sets").iterdir())
    for file in [chance.choice(files)] if chance else files:
        copy = Path(shutil.copyfile(file, folder / file.name))
        if chance:
            _damage(copy, chance)


def _index(seeds: Path, folder: Path, chance: Chance | None) -> None:
    shutil.copytree(seeds / "index", folder)
    if not chance:
        return
    files = sorted(f for f in (folder / ".retrieval").iterdir() if f.is_file())
    for _ in range(chance.choice((1, 1, 2))):
        file = chance.choice(files)
        if not file.is_file() or file.is_symlink():
            continue
        if file.suffix == ".db" and chance.random() < 0.7:
            mutate.mutate_database(file, chance)
        elif chance.random() < 0.2:
            mutate.make_odd(file, chance)
        else:
            _damage(file, chance)


def _folder_of(name: str) -> Callable[[Path, Path, Chance | None], None]:
    """Cases of a folder of files, of which one or two are damaged."""

    def write(seeds: Path, folder: Path, chance: Chance | None) -> None:
        shutil.copytree(seeds / name, folder)
        if chance:
            if name == "checkpoint" and chance.random() < 0.5:
                (folder / "open_clip_model.safetensors").unlink()
            files = sorted(folder.iterdir())
            for file in chance.sample(files, chance.choice((1, 1, 2))):
                if chance.random() < 0.05:
                    mutate.make_odd(file, chance)
                else:
                    _damage(file, chance)

    return write


def _damage(file: Path, chance: Chance) -> None:
    """Damage a file as its format suggests, or as bytes."""
    data = file.read_bytes()
    if chance.random() < 0.3:
        data = mutate.mutate_bytes(data, chance)
    elif file.suffix == ".safetensors":
        data = mutate.mutate_safetensors(data, chance)
    elif file.suffix == ".json":
        text = mutate.mutate_json(data.decode("utf-8", "replace"), chance)
        data = text.encode("utf-8", "surrogatepass")
    elif file.suffix == ".jsonl":
        lines = data.decode("utf-8", "replace").splitlines() or [""]
        at = chance.randrange(len(lines))
        lines[at] = mutate.mutate_json(lines[at], chance)
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    elif file.suffix in (".csv", ".txt", ".xmp", ".token"):
        data = mutate.mutate_text(data, chance)
    else:
        data = mutate.mutate_bytes(data, chance)
    file.write_bytes(data)


TARGETS: dict[str, Callable[[Path, Path, Chance | None], None]] = {
    "photos": _photos,
    "captions": _captions,
    "set": _set,
    "index": _index,
    "check": _index,
    "model": _folder_of("model"),
    "checkpoint": _folder_of("checkpoint"),
    "weights": _folder_of("weights"),
}
MODELS = ("model", "checkpoint", "weights")
"""The targets that load models."""
