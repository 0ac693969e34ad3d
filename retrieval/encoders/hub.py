"""The model hub and its local cache: what has been downloaded, and whether the hub answers.

Nothing is downloaded here; open_clip does that through the hub's own client.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_TIMEOUT = 3.0  # seconds


def is_cached(repository: str) -> bool:
    """Whether the open_clip weights of a hub repository have been downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def is_hub_reachable() -> bool:
    """Whether the hub (HF_ENDPOINT) answers within 3 seconds.

    Asked before the hub's client is used, because that retries for a long time.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the proxy can reach the hub, so a direct connection says nothing
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), _TIMEOUT).close()
    except OSError:
        return False
    return True


@contextmanager
def hub_access(offline: bool) -> Iterator[None]:
    """Run the block with the hub's client limited to its cache, or free to download.

    A user's own HF_HUB_OFFLINE is respected either way.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
