"""Models by name: presets, local checkpoints, a hub that answers and one that does not."""

import http.server
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import retrieval
from tests.conftest import Run
from tests.tiny_models import OPEN_CLIP, write_open_clip


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
