"""Base models of the hub, as folders of the local cache: what is loaded from there is looked
through first, as any folder is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, snapshot_download

from lcm.adapter.model_folder import loading
from lcm.models.model_index import INDEX_NAME, read_index

CHECK = "check its name and the network, or pass a local folder"

CONFIG_FILES = ("*.json", "*/*.json", "*.txt", "*/*.txt", "*/*.model")
"""A pipeline's folder without its weights."""
VAE_FILES = (
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model-*-of-*.safetensors",
)


def fetch(repo_id: str, files: Sequence[str]) -> Path:
    """The folder with these files of a repository. Raises OSError or ValueError."""
    return Path(snapshot_download(repo_id, allow_patterns=list(files)))


def download(
    repo_id: str,
    revision: str | None,
    variant: str | None,
    classes: Collection[str],
    leave_out: Collection[str],
) -> Path:
    """The folder of a pipeline with its safetensors files, but for the components to `leave_out`;
    its index is read before anything else is downloaded.

    Raises FileNotFoundError or ValueError, in one line.
    """
    with loading(f"path: {repo_id}", CHECK):
        index = Path(hf_hub_download(repo_id, INDEX_NAME, revision=revision))
    read_index(index, "path", classes)
    with loading(f"path: {repo_id}", CHECK):
        folder: str = DiffusionPipeline.download(
            repo_id,
            revision=revision,
            variant=variant,
            use_safetensors=True,
            **dict.fromkeys(leave_out),
        )
    return Path(folder)
