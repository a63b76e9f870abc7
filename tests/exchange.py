"""What one set of library versions wrote is used under another: `make test-lowest` writes under
both ends of the ranges, and reads each under the other.

    python -m tests.exchange write FOLDER
    python -m tests.exchange read FOLDER

`write` leaves a teacher, a run with its cache and checkpoints, and a merged model; `read` goes on
from the checkpoint, and draws with all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

import diffusers
import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors.torch import load_file

import lcm
import train_lcm_lora
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli.main import main as lcm_main
from lcm.models.base_model import load_base
from tests.support.launches import forget_launch
from tests.support.runs import words
from tests.support.worlds import build_sd, write_images

PROMPT = "a red star"
PICTURES, MERGED = "pictures.npz", "merged"
RATE = 1e-3
SAME_PIXELS, SAME_WEIGHTS = 2e-3, RATE / 10
"""How far pictures in [0, 1], and weights, may be apart: another torch rounds differently. Where an
update is made without the state of the optimizer, weights are apart by the learning rate.
"""


def train(folder: Path, output: str, **more: Any) -> None:
    forget_launch()
    line = words(
        {
            "pretrained_teacher_model": folder / "teacher",
            "train_data_dir": folder / "images",
            "output_dir": folder / output,
            "latent_cache_dir": folder / "cache",
            "resolution": 16,
            "lora_rank": 2,
            "learning_rate": RATE,
            "train_batch_size": 2,
            "max_train_steps": 4,
            "checkpointing_steps": 2,
            "validation_num_steps": 1,
            "gradient_checkpointing": "selective",
            **more,
        }
    )
    if train_lcm_lora.main([*line, "--cache_latents"]):
        raise SystemExit(f"{output} failed")


def drawn(pipe: Any, steps: int) -> npt.NDArray[np.float32]:
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": steps, "output_type": "np"}
    generator = torch.Generator().manual_seed(1)
    picture: npt.NDArray[np.float32] = pipe(
        PROMPT, height=32, width=32, generator=generator, **options
    ).images
    return picture


def pictures(folder: Path, run: str) -> dict[str, npt.NDArray[np.float32]]:
    """One of the teacher, of the teacher with the adapter, and of the merged model."""
    teacher, merged = load_base(folder / "teacher"), load_base(folder / MERGED)
    found = {"teacher": drawn(teacher, 3)}
    lcm.attach(teacher, folder / run)
    return {**found, "adapter": drawn(teacher, 2), "merged": drawn(merged, 2)}


def cached(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cache").rglob("*.safetensors")}


def write(folder: Path) -> None:
    # as transformers itself saves it, which is not how `lcm merge` does
    build_sd().save_pretrained(folder / "teacher")
    write_images(folder / "images", 6, size=(16, 16))
    train(folder, "run")
    arguments = ["merge", folder / "run", "--base", folder / "teacher", "--output", folder / MERGED]
    if lcm_main([str(argument) for argument in arguments]):
        raise SystemExit("merge failed")
    np.savez(folder / PICTURES, **pictures(folder, "run"))  # type: ignore[arg-type]


def read(folder: Path) -> None:
    if (folder / "half").exists():  # of another reader
        shutil.rmtree(folder / "half")
    shutil.copytree(folder / "run" / "checkpoint-2", folder / "half" / "checkpoint-2")
    with np.load(folder / PICTURES, allow_pickle=False) as there:
        for name, here in pictures(folder, "run").items():
            check(f"picture of the {name}", float(np.abs(here - there[name]).max()), SAME_PIXELS)
    before = cached(folder)
    train(folder, "half", resume_from_checkpoint="latest")
    if not before or cached(folder) != before:
        raise SystemExit("the cache was written anew")
    whole, resumed = (load_file(folder / name / WEIGHTS_NAME) for name in ("run", "half"))
    apart = max(float((whole[name].float() - resumed[name].float()).abs().max()) for name in whole)
    check("adapter of the resumed run", apart, SAME_WEIGHTS)


def check(what: str, apart: float, most: float) -> None:
    print(f"{what}: {apart:.1e} apart, at most {most:g}")
    if not apart <= most:
        raise SystemExit(f"the {what} is not the same")


def main() -> None:
    verb, where = sys.argv[1:]
    diffusers.utils.logging.disable_progress_bar()
    folder = Path(where).resolve()
    versions = {
        library.__name__: library.__version__ for library in (torch, diffusers, transformers)
    }
    print(f"{verb} with {json.dumps(versions)}")
    {"write": write, "read": read}[verb](folder)


if __name__ == "__main__":
    main()
