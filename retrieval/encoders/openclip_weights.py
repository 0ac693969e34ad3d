"""Find and load an open_clip model by its name there, from a hub or from a local checkpoint.

The local cache is tried first, without any network access. Weights are loaded as safetensors or by
torch's weights-only loader: a checkpoint is data and never runs code.
"""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.encoders.hub import hub_access, is_hub_reachable
from retrieval.encoders.openclip_files import check_checkpoint, check_folder, read_config
from retrieval.errors import ModelError, WeightsMissingError


def split_name(name: str) -> tuple[str, str, str | None]:
    """Split a model's name into (name, architecture, weights), with a file's path made absolute.

    Raises ModelError if it has none of the known forms.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "hf-hub":
        return name, name, None
    file = os.path.expanduser(rest)  # noqa: PTH111 - a name that no file can have is no error
    if scheme == "local-dir" and "\0" not in rest:
        folder = os.path.realpath(file)
        return f"local-dir:{folder}", f"local-dir:{folder}", None
    if not rest or "\0" in rest:
        raise ModelError(
            f"'{name}' is not a model. Write ARCH:WEIGHTS as open_clip does "
            "(ViT-B-32-256:datacomp_s34b_b86k), hf-hub:ORG/MODEL, ARCH:CHECKPOINT_FILE, or one of "
            "the presets mini, base, better, best and multilingual."
        )
    if _is_file(file):
        file = os.path.realpath(file)
        return f"{scheme}:{file}", scheme, file
    return name, scheme, rest


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - a name that no file can have is no error


def load_model(name: str, architecture: str, weights: str | None) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer: from the cache if complete there, else from the hub.

    The arguments are as `split_name` returns them. Raises ModelError.
    """
    import open_clip

    if weights is not None:
        _check_known(architecture, weights)
        if _is_file(weights):
            check_checkpoint(Path(weights))
    reason: Exception
    for offline in (True, False):
        if not offline and not is_hub_reachable():
            break
        try:
            with hub_access(offline), _quiet():
                _check_config(architecture)
                model, _, transform = open_clip.create_model_and_transforms(
                    architecture,
                    pretrained=weights,
                    force_quick_gelu=_uses_quick_gelu(architecture, weights),
                    require_pretrained=True,
                    weights_only=True,
                )
                return model, transform, open_clip.get_tokenizer(architecture)
        except ModelError:
            raise
        except Exception as error:
            reason = error
        if (weights is not None and _is_file(weights)) or name.startswith("local-dir:"):
            raise ModelError(
                f"The model {name} cannot be loaded: {_one_line(reason)}. Check that the "
                "checkpoint belongs to that architecture and is not damaged."
            ) from reason
    raise WeightsMissingError(
        f"The weights of {name} are not on this machine and cannot be downloaded "
        f"({_one_line(reason)}). Connect to the network and try again, give a local checkpoint as "
        "ARCH:FILE, or use --model mini, which needs no network."
    ) from reason


def _check_known(architecture: str, weights: str) -> None:
    """Raise ModelError, with similar names, if open_clip has no such architecture or weights."""
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(
            f"open_clip has no architecture '{architecture}'.{_did_you_mean(architecture, known)} "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists them."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in tags and not _is_file(weights):
        raise ModelError(
            f"open_clip has no weights '{weights}' for {architecture}, and there is no such file. "
            f"It has: {', '.join(tags) or 'none'}."
        )


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    similar = difflib.get_close_matches(word, known, 3)
    return f" Did you mean {' or '.join(similar)}?" if similar else ""


def _check_config(architecture: str) -> None:
    """Raise ModelError if a model's configuration makes no sense, or asks to run code of its own.

    open_clip passes the configuration to transformers, which would run the model's Python files.
    """
    scheme, _, location = architecture.partition(":")
    if scheme == "local-dir":
        file = Path(location) / "open_clip_config.json"
        check_folder(Path(location))
    elif scheme == "hf-hub":
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(location.partition("@")[0], "open_clip_config.json"))
    else:
        return
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # nor ask for permission on the terminal
    if "trust_remote_code" in _all_keys(read_config(file)):
        raise ModelError(
            f"The model {architecture} asks to run code of its own, which is never allowed. "
            "Choose another model."
        )


def _all_keys(value: Any) -> set[str]:
    """All keys in a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*(_all_keys(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(_all_keys(inner) for inner in value))
    return set()


def _uses_quick_gelu(architecture: str, weights: str | None) -> bool:
    """Whether these weights were trained with QuickGELU, whatever the architecture says."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(architecture, weights) if weights else None
    return bool((tag or {}).get("quick_gelu", False))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Run without open_clip's warnings and log lines, which it writes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
