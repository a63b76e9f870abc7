"""What the verbs of `lcm` take on adapters of true size: `results/verbs.json`.

    python -m benchmarks.verbs                         # a quarter of an hour on one core
    python -m benchmarks.verbs --models sdxl --verbs inspect resize

Adapters of rank 64 for the published architectures, every layer that training adapts, random
numbers in half precision: files of 135 MB for Stable Diffusion 1.5 and 394 MB for SDXL. No U-Net is
made but on meta tensors, which take no memory. Every verb runs in a process of its own, first on an
adapter of three layers, after which all that it imports is there, and then on the file. The floor
is reading the file and writing it again, by safetensors alone, in the same round. Processor time,
of one thread; what else the machine does then changes a verb and its floor alike.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

# what a worker does not need is imported where it is used
HERE = Path(__file__).parent
RESULTS = HERE / "results"
NAME = "verbs.json"
RANK = 64
MODELS = {"sd15": "SD 1.5", "sd21": "SD 2.1", "ssd1b": "SSD-1B", "sdxl": "SDXL"}
"""Files in `models/`, and the names that the table has for them."""
FLOOR = "read and write"
FILES = ("file", "other", "dotted", "base", "out")
"""What the words of a case may name: two adapters, the first in diffusers' layout, the folder of a
base model of another family, and what is written.
"""
CASES: dict[str, str] = {
    "inspect": "inspect {file}",
    "verify, another family": "verify {file} --base {base}",
    "convert to kohya": "convert {dotted} {out} --to kohya",
    "convert to diffusers": "convert {file} {out} --to diffusers",
    "convert to peft": "convert {file} {out} --to peft",
    "convert to bfloat16": "convert {file} {out} --to kohya --dtype bfloat16",
    "repair": "repair {file} {out}",
    "resize to 8": "resize {file} --rank 8 --output {out}",
    "merge two": "merge {file} {other} --weights 1 0.7 --output {out}",
    "merge two to 32": "merge {file} {other} --rank 32 --output {out}",
}
REFUSED = ("verify, another family",)
"""Cases that end with status 1."""


# --- the files ------------------------------------------------------------------------------------


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights that training adapts, by layer, of a U-Net on meta tensors."""
    import torch
    from diffusers import UNet2DConditionModel

    from lcm.adapter.lora import layers_named
    from lcm.adapter.names import LORA_TARGETS

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    names = sorted(layers_named(unet, LORA_TARGETS))
    return {name: tuple(unet.get_submodule(name).weight.shape) for name in names}


def write_adapter(
    path: Path, shapes: dict[str, tuple[int, ...]], header: dict[str, str], rank: int, seed: int
) -> None:
    """Random factors of these layers in the layout of the official LCM-LoRAs, float16."""
    import torch
    from safetensors.torch import save_file

    from lcm.adapter.kohya import layer_tensors, stem

    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Any] = {}
    for name, (rows, *columns) in shapes.items():
        down = 0.02 * torch.randn(rank, *columns, generator=generator)
        up = 0.02 * torch.randn(rows, rank, *(1,) * (len(columns) - 1), generator=generator)
        state |= layer_tensors(stem("unet", name), down.half(), up.half(), float(rank))
    save_file(state, path, header)


def write_files(folder: Path, config: dict[str, Any], rank: int) -> dict[str, int]:
    """The files of all cases in `folder`, and beside each a version of three layers in
    `folder`/tiny. Returns the number of layers, and of bytes.
    """
    from lcm.adapter.kohya import family_header
    from lcm.formats.read import read_adapter
    from lcm.formats.write import LAYOUTS

    shapes, width = shapes_of(config), config["cross_attention_dim"]
    family = "sdxl" if config.get("addition_embed_type") == "text_time" else "sd"
    header = {"format": "pt", **family_header(family, width, "epsilon", rank, float(rank))}
    text = next(name for name in shapes if name.endswith("attn2.to_k"))
    few = {name: shapes[name] for name in (text, *list(shapes)[:2])}
    for place, layers in ((folder, shapes), (folder / "tiny", few)):
        (place / "base" / "unet").mkdir(parents=True)
        facts = {"cross_attention_dim": width + 1}
        (place / "base" / "unet" / "config.json").write_text(json.dumps(facts))
        for seed, name in enumerate(("file", "other")):
            write_adapter(place / name, layers, header, rank, seed)
        LAYOUTS["diffusers"](read_adapter(place / "file"), place / "dotted")
    return {"layers": len(shapes), "bytes": (folder / "file").stat().st_size}


# --- one process ----------------------------------------------------------------------------------


def run(case: str, folder: Path) -> None:
    """One case on the files of a folder. What it prints is not wanted."""
    shutil.rmtree(out := folder / "out", ignore_errors=True)
    if case == FLOOR:
        from safetensors.torch import load_file, save_file

        save_file(load_file(folder / "file"), folder / "floor")
        return
    from lcm.cli.main import main

    places = {name: folder / name for name in FILES} | {"out": out / "new"}
    words = [word.format(**places) for word in CASES[case].split()]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(words)
    if status != (case in REFUSED):
        raise RuntimeError(f"{' '.join(words)} ended with {status}: {said.getvalue()}")


def worker(case: str, folder: Path) -> dict[str, float]:
    """What a case takes, in seconds of processor time: from the start of the process, with all
    imports, on three layers, and then on the file; the wall time of this, and the peak memory of
    the process in MiB.
    """
    run(case, folder / "tiny")
    imports = time.process_time()
    wall, started = time.perf_counter(), time.process_time()
    run(case, folder)
    return {
        "imports": round(imports, 3),
        "cpu": round(time.process_time() - started, 3),
        "wall": round(time.perf_counter() - wall, 3),
        "peak_mib": round(peak_memory() / 2**20, 1),
    }


def peak_memory() -> int:
    """Bytes of this program: what Python says elsewhere counts the process that started it too."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(words[1]) << 10 for words in lines if words[0] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def launch(case: str, folder: Path) -> dict[str, float]:
    """`worker` in a process of its own. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "benchmarks.verbs", "--worker", case, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- all of them ----------------------------------------------------------------------------------


def measure(model: str, cases: list[str], rounds: int, rank: int) -> dict[str, Any]:
    """The cases on one model's adapter, and the floor in every round."""
    config = json.loads((HERE / "models" / f"{model}.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        facts = write_files(Path(scratch), config, rank)
        found: dict[str, list[dict[str, float]]] = {case: [] for case in (FLOOR, *cases)}
        for _ in range(rounds):
            for case, costs in found.items():
                costs.append(launch(case, Path(scratch)))
    return {**facts, "rank": rank, "cases": found}


def verbs_table(results: dict[str, Any]) -> str:
    """A line for every model and case: medians, and the median of the ratios to the floor."""
    from benchmarks.methods.tables import table

    rows = []
    for model, facts in results["models"].items():
        floors = [cost["cpu"] for cost in facts["cases"][FLOOR]]
        for case, costs in facts["cases"].items():
            middle = {name: median(cost[name] for cost in costs) for name in costs[0]}
            ratio = median(cost["cpu"] / floor for cost, floor in zip(costs, floors, strict=True))
            size = f"{facts['layers']} layers, {facts['bytes'] / 1e6:.0f} MB"
            rows.append(
                [
                    f"{MODELS.get(model, model)}, {size}" if case == FLOOR else "",
                    case,
                    f"{middle['imports']:.1f}",
                    f"{middle['cpu']:.2f}",
                    f"{ratio:.1f}",
                    f"{middle['peak_mib']:.0f}",
                ]
            )
    head = ["adapter", "", "imports, s", "then, s", "over reading and writing", "peak MiB"]
    return table(head, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--verbs", nargs="+", default=[], help="cases that begin with these words; default: all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        print(json.dumps(worker(args.worker[0], Path(args.worker[1]))))
        return
    from benchmarks.methods.teacher import write_json

    path = args.results_dir / NAME
    results = json.loads(path.read_text()) if path.exists() else {"models": {}}
    cases = [case for case in CASES if not args.verbs or case.startswith(tuple(args.verbs))]
    for model in args.models:
        results["models"][model] = measure(model, cases, args.rounds, args.rank)
        write_json(path, results)
    print(verbs_table(results))


if __name__ == "__main__":
    main()
