"""Segmenters on the Hugging Face Hub: fetched as a folder, and sent there."""

from __future__ import annotations

import re
from pathlib import Path

from ris.errors import CheckpointError
from vpd.weights import FILE_SUFFIXES

FILES = ("config.json", "model.safetensors")
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"

CARD = """\
---
pipeline_tag: image-segmentation
tags: [referring-image-segmentation]
---
A referring segmenter of vpd-ris.

```python
from ris import Predictor

predictor = Predictor.from_pretrained("{repo_id}")
predictor.set_image("picture.jpg")
masks = predictor.predict("the left giraffe").masks
```
"""


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` can only be a Hub id: owner/name, no weights file, and nothing here."""
    text = str(name)
    return (
        re.fullmatch(f"{_PART}/{_PART}", text) is not None
        and not text.endswith(FILE_SUFFIXES)
        and not Path(text).exists()
    )


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """The folder that `Predictor.push_to_hub` sent to `repo_id`, from the cache where it is there.

    Raises CheckpointError, with the cure, when it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # of a dozen types and two libraries; each becomes one with a cure
        raise CheckpointError(
            f"{repo_id} is no folder here, and the Hub gave nothing ({_reason(error)}); check the "
            "name, log in with 'hf auth login' if it is private or gated, or, offline, fetch it "
            f"elsewhere with 'hf download {repo_id}' and give the folder"
        ) from error
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{repo_id} on the Hub has no {' and no '.join(missing)}; want a repository written by "
            "Predictor.push_to_hub"
        )
    return folder


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a segmenter",
) -> str:
    """Send a checkpoint folder to `repo_id`, made if it is new; returns its address.

    Raises CheckpointError, with the cure, when the Hub does not take it.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # as in `fetch`
        raise CheckpointError(
            f"the model could not be sent to {repo_id!r} ({_reason(error)}); log in with "
            "'hf auth login' with a token that may write there, name it owner/name, and be online "
            "(HF_HUB_OFFLINE unset); Predictor.save_pretrained writes it to a folder here"
        ) from error
    return str(address)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
