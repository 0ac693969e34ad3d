"""Models by name: presets, local checkpoints, a hub that answers and one that does not."""

import copy
import http.server
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import retrieval
from retrieval.encoders.registry import load_encoder
from retrieval.errors import ModelError
from tests.conftest import Run
from tests.tiny_models import OPEN_CLIP, OPEN_CLIP_CONFIG, write_open_clip


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process: the hub's client reads its settings when it is imported."""
    import os

    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


INDEX = (
    "import sys, cli\n"
    "sys.argv = ['retrieval', 'index', *sys.argv[1:]]\n"
    "cli.main()\n"
)  # fmt: skip


def test_auto_falls_back_to_mini_in_one_line(few: Path, tmp_path: Path) -> None:
    result = python(INDEX, few, HF_HOME=str(tmp_path / "hub"), HF_ENDPOINT="http://127.0.0.1:9")
    assert result.returncode == 0, result.stderr
    # A slow machine prints progress besides, and over it: only lines about the model count.
    about_model = [line for line in re.split(r"[\r\n]", result.stderr) if "model" in line]
    assert len(about_model) == 1, result.stderr
    assert "using the built-in model mini" in about_model[0]
    with retrieval.open(few) as opened:
        assert opened.status().model.name == "mini"


def test_weights_out_of_reach_get_one_sentence(few: Path, tmp_path: Path) -> None:
    result = python(
        INDEX, few, "--model", "better",
        HF_HOME=str(tmp_path / "hub"), HF_ENDPOINT="http://127.0.0.1:9",
    )  # fmt: skip
    assert result.returncode == 1
    assert "ViT-B-16-SigLIP:webli are not on this machine and cannot be downloaded" in result.stderr
    assert "--model mini" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (few / ".retrieval" / "catalogue.db").exists()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, random_clip: str) -> Iterator[str]:
    """A model hub on this machine, with one small model: the address."""
    import open_clip

    folder = tmp_path_factory.mktemp("hub")
    files = folder / "org" / "small" / "resolve" / "main"
    files.mkdir(parents=True)
    shutil.copy(random_clip.partition(":")[2], files / "open_clip_model.safetensors")
    config = {
        "model_cfg": open_clip.get_model_config(OPEN_CLIP),
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (files / "open_clip_config.json").write_text(json.dumps(config))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(folder), **keywords)

        def end_headers(self) -> None:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"' + str(abs(hash(self.path))) + '"')
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_hub_model_is_downloaded_once_and_then_works_offline(
    few: Path, tmp_path: Path, hub: str
) -> None:
    place = {"HF_HOME": str(tmp_path / "hub")}
    first = python(INDEX, few, "--model", "hf-hub:org/small", HF_ENDPOINT=hub, **place)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("4 added")
    offline = python(
        "import sys, retrieval\n"
        "with retrieval.open(sys.argv[1]) as photos: print(len(photos.search('a cat')))",
        few, HF_ENDPOINT="http://127.0.0.1:9", **place,
    )  # fmt: skip
    assert offline.stdout == "4\n", offline.stderr


def test_a_local_checkpoint_is_named_by_its_architecture(
    run: Run, few: Path, random_clip: str
) -> None:
    assert run("index", few, "--model", random_clip).out.startswith("4 added")
    with retrieval.open(few) as opened:
        model = opened.status().model
        assert model.name == random_clip
        vector = opened.embed(retrieval.Query((retrieval.Term("text", "a cat"),)))
        assert vector.shape == (model.dim,)
        assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)
    assert run("search", "a cat", "-f", "json", cwd=few).code == 0


def test_other_weights_under_the_same_name_are_refused(
    run: Run, few: Path, random_clip: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(random_clip.partition(":")[2], file)
    run("index", few, "--model", f"{OPEN_CLIP}:{file}")
    write_open_clip(file, seed=1)
    result = run("search", "a cat", cwd=few)
    assert result.code == 1
    assert "other weights" in result.messages


def test_a_checkpoint_never_runs_code(
    run: Run, few: Path, random_clip: str, tmp_path: Path
) -> None:
    """A pickle that would write a file is rejected with a sentence."""
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return (Path.write_text, (mark, "ran"))

    checkpoint = tmp_path / "evil.pt"
    checkpoint.write_bytes(pickle.dumps({"state_dict": Evil()}))
    result = run("index", few, "--model", f"{OPEN_CLIP}:{checkpoint}")
    assert result.code == 1
    assert "cannot be loaded" in result.messages
    assert not mark.exists()


def test_presets_are_models_that_open_clip_has() -> None:
    import open_clip

    from retrieval.encoders.registry import PRESETS

    for name in PRESETS.values():
        architecture, _, tag = name.partition(":")
        assert tag in open_clip.list_pretrained_tags_by_model(architecture), name


def test_a_model_never_brings_its_own_code(
    run: Run, few: Path, random_clip: str, tmp_path: Path
) -> None:
    """A model's configuration may ask transformers to run a Python file of the model's."""
    import open_clip

    mark = tmp_path / "mark"
    folder = tmp_path / "evil"
    folder.mkdir()
    shutil.copy(random_clip.partition(":")[2], folder / "open_clip_model.safetensors")
    config = open_clip.get_model_config(OPEN_CLIP)
    config["text_cfg"]["hf_tokenizer_name"] = "evil"
    config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    auto_map = {"AutoTokenizer": ["evil_tok.Evil", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    (folder / "evil_tok.py").write_text(
        f"open({str(mark)!r}, 'w').write('ran')\nclass Evil: pass\n"
    )
    result = run("index", few, "--model", f"local-dir:{folder}")
    assert result.code == 1
    assert "asks to run code of its own" in result.messages
    assert not mark.exists()


def checkpoint_of(state: dict[str, object], file: Path) -> Path:
    import torch

    torch.save(state, file)
    return file


def claim_terabytes(state: dict, file: Path) -> Path:
    """One number, claimed to be 2^45 of them."""
    import torch

    huge = torch.zeros(1).expand(1 << 45)
    return checkpoint_of({**state, "positional_embedding": huge}, file)


def fill(name: str, value: float):
    def change(state: dict, file: Path) -> Path:
        return checkpoint_of({**state, name: state[name] * 0 + value}, file)

    return change


def leave_out(name: str):
    return lambda state, file: checkpoint_of({k: v for k, v in state.items() if k != name}, file)


def sparse(state: dict, file: Path) -> Path:
    checkpoint_of(state, file)
    os.truncate(file, 1 << 40)
    return file


BAD_CHECKPOINTS = {
    "a missing key": (leave_out("visual.proj"), "visual.proj"),
    "not a number": (fill("ln_final.weight", float("nan")), "not finite"),
    "endless": (fill("visual.conv1.weight", float("inf")), "not finite"),
    "tensors of terabytes": (claim_terabytes, "claims .* bytes of tensors"),
    "a file of a terabyte": (sparse, "GB of memory are free"),
    "a list": (lambda state, file: checkpoint_of([1, 2], file), "cannot be loaded"),
    "no checkpoint": (lambda state, file: file.write_bytes(b"PK" + bytes(99)), "cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_a_damaged_checkpoint_gets_a_sentence(random_clip: str, tmp_path: Path, case: str) -> None:
    from safetensors.torch import load_file

    write, reason = BAD_CHECKPOINTS[case]
    file = tmp_path / "model.pt"
    write(load_file(random_clip.partition(":")[2]), file)
    with pytest.raises(ModelError, match=reason):
        load_encoder(f"{OPEN_CLIP}:{file}")


BAD_CONFIGS: dict[str, tuple[Callable[[dict], object], str]] = {
    "endless layers": (lambda c: c["text_cfg"].update(layers=10**9), "layers is 1000000000"),
    "wider than its weights": (lambda c: c["text_cfg"].update(width=8192), "parameters"),
    "longer embeddings than its weights": (lambda c: c.update(embed_dim=65_536), "parameters"),
    "embeddings of a million": (lambda c: c.update(embed_dim=10**6), "embed_dim is 1000000"),
    "an endless number": (lambda c: c.update(embed_dim=float("inf")), "embed_dim is inf"),
    "a photo of a million": (lambda c: c["vision_cfg"].update(image_size=10**6), "image_size"),
    "too many patches": (lambda c: c["vision_cfg"].update(patch_size=1), "patches are too many"),
    "zero heads": (lambda c: c["text_cfg"].update(heads=0), "cannot be loaded"),
    "patches of nothing": (lambda c: c["vision_cfg"].update(patch_size=0), "cannot be loaded"),
    "no text": (lambda c: c.pop("text_cfg"), "cannot be loaded"),
    "text for a number": (lambda c: c.update(embed_dim="32"), "cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_configuration_without_bounds_gets_a_sentence(
    random_clip: str, tmp_path: Path, case: str
) -> None:
    change, reason = BAD_CONFIGS[case]
    config = copy.deepcopy(OPEN_CLIP_CONFIG)
    change(config)
    write_local_dir(tmp_path, random_clip, json.dumps({"model_cfg": config}))
    with pytest.raises(ModelError, match=reason):
        load_encoder(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[]", '"model_cfg"', "\x00"])
def test_a_configuration_that_is_none_gets_a_sentence(
    random_clip: str, tmp_path: Path, text: str
) -> None:
    write_local_dir(tmp_path, random_clip, text)
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        load_encoder(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_an_endless_file_is_not_read(random_clip: str, tmp_path: Path, name: str) -> None:
    write_local_dir(tmp_path, random_clip, json.dumps({"model_cfg": OPEN_CLIP_CONFIG}))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError):
        load_encoder(f"local-dir:{tmp_path}")


def test_tokens_beyond_the_table_get_a_sentence(random_clip: str, tmp_path: Path) -> None:
    """A model that knows fewer words than its tokenizer gives."""
    from safetensors.torch import load_file, save_file

    config = copy.deepcopy(OPEN_CLIP_CONFIG)
    config["text_cfg"]["vocab_size"] = 100
    write_local_dir(tmp_path, random_clip, json.dumps({"model_cfg": config}))
    file = tmp_path / "open_clip_model.safetensors"
    state = load_file(file)
    state["token_embedding.weight"] = state["token_embedding.weight"][:100].clone()
    save_file(state, file)
    with pytest.raises(ModelError, match="cannot be used"):
        load_encoder(f"local-dir:{tmp_path}")


def test_a_local_folder_is_a_model(random_clip: str, tmp_path: Path) -> None:
    write_local_dir(tmp_path, random_clip, json.dumps({"model_cfg": OPEN_CLIP_CONFIG}))
    assert load_encoder(f"local-dir:{tmp_path}").encode_texts(["a cat"]).shape == (1, 32)


@pytest.mark.parametrize(
    "name",
    ["~nobody/x", "x\0y", "trained:x\0y", "local-dir:x\0y", "ViT-B-32:x\0", "y" * 5000, "", ":"],
)
def test_a_name_that_no_file_can_have_gets_a_sentence(name: str) -> None:
    with pytest.raises(ModelError):
        load_encoder(name)


def write_local_dir(folder: Path, random_clip: str, config: str) -> None:
    shutil.copy(random_clip.partition(":")[2], folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(config)
