"""A machine without what only POSIX has, and without the packages that playing and training from a
folder can do without: everything is imported and used in one process where they are hidden.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.posix import ATTRIBUTES, MODULES
from tests.support.runs import ENVIRONMENT, flags

OPTIONAL = (
    *("datasets", "pyarrow", "pandas", "tensorboard", "wandb", "trackio", "bitsandbytes"),
    *("compel", "shtab", "fastapi", "starlette", "uvicorn", "websockets", "lpips"),
    *("torchvision", "scipy", "playwright", "torch_fidelity"),
)
"""Not psutil, filelock, tqdm, jinja2 or yaml, which are small and needed; accelerate, by which
diffusers loads models in half the memory.
"""
USED_BY_OTHERS = re.compile(
    "O_|statvfs|sysconf|fork|wait|pread|WNOHANG|uname|fchmod|fchown|chown|geteuid|getuid"
)
"""Attributes by which libraries, that of Python and filelock, do here what they do otherwise on
Windows.
"""
PROGRAM = """
import sys
for name in {optional}:
    sys.modules[name] = None
import importlib, io, json, os, pkgutil, signal
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
import accelerate, diffusers, filelock, huggingface_hub, jinja2, peft, PIL.Image, psutil, torch
import torch.utils.data, tqdm, transformers, yaml
for name in {modules}:
    sys.modules[name] = None
for module, names in {attributes}.items():
    for name in names:
        vars(importlib.import_module(module)).pop(name, None)

import lcm, train_lcm_lora
from lcm.cli.main import main
for package in (lcm, importlib.import_module("pipelines")):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)

# what asks for the system by name
class Process(psutil.Process):
    def memory_info(self):
        rss = super().memory_info().rss
        return SimpleNamespace(rss=rss, peak_wset=rss)

memory = sys.modules["lcm.system.memory"]
memory.psutil = SimpleNamespace(Process=Process, virtual_memory=psutil.virtual_memory)
memory.sys = SimpleNamespace(platform="win32")
sys.modules["lcm.system.atomic"].os = SimpleNamespace(**dict(vars(os), name="nt"))

said = []
for command, line in json.loads(sys.argv[1]):
    run = train_lcm_lora.main if command == "train" else main
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
        status = run(line)
    said.append((status, errors.getvalue().splitlines()[-1:]))
print(json.dumps(said))
"""


def test_everything_runs_where_posix_and_what_is_optional_are_missing(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", str(tmp_path / "x.safetensors")
    brief = {"max_train_steps": 1, "validation_num_steps": 1, "validation_prompts": "x"}
    training = flags(sd_folder, images, out, **brief)
    drawing = ["--base", str(sd_folder), "--adapter", str(out), "--prompt", "x", "--steps", "1"]
    lines = [
        ("train", training),
        ("lcm", ["inspect", str(out)]),
        ("lcm", ["convert", "--to", "diffusers", str(out), file]),
        ("lcm", ["generate", *drawing, "--output", str(tmp_path / "drawn")]),
        ("lcm", ["verify", str(out), "--base", str(sd_folder)]),
    ]
    refused = {
        "datasets cannot be imported": {"train_data_dir": None, "dataset_name": str(images)},
        "tensorboard is not installed": {"report_to": "tensorboard"},
        "bitsandbytes is not installed": {"use_8bit_adam": True},
        "needs the package compel": {"long_prompts": "chunks"},
    }
    for changes in refused.values():
        lines.append(("train", flags(sd_folder, images, tmp_path / "no", **brief, **changes)))
    program = PROGRAM.format(
        optional=OPTIONAL,
        modules=MODULES,
        attributes={
            module: {name for name in names if not USED_BY_OTHERS.match(name)}
            for module, names in ATTRIBUTES.items()
        },
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    statuses, last = zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
    assert statuses == (0,) * 5 + (2,) * len(refused), last
    for line, why in zip(last[5:], refused, strict=True):
        assert line[0].startswith("error: ") and why in line[0], (line, why)
        assert "pip install" in line[0]
