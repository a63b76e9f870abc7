"""The documented command on models of true size, with random weights and without a GPU:
`results/real_size.json`.

    python -m benchmarks.real_size                 # SD 1.5 in float32, then SDXL in bfloat16
    python -m benchmarks.real_size --models sd15

At 64 pixels: the dry run, two updates with pictures, checkpoint and result, then
`lcm verify`, and four steps through `lcm.attach`. Each part is a process of its own, of which wall
time, processor time and peak memory are the system's figures; when a file was finished tells how
long the parts of the training took. What the dry run foresaw stands beside what came. Exits with
status 1 where a part fails, or takes more memory than it may.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.methods.tables import table
from benchmarks.methods.teacher import write_json

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
NAME = "real_size.json"
RESOLUTION = 64
GIGA = 1e9


@dataclass(frozen=True)
class Case:
    """A model as it is run here: its precision as flags and Python spell it, how many updates, the
    columns of its grids, and the most bytes that any part may take.
    """

    title: str
    precision: str
    dtype: str
    updates: int
    num_steps: tuple[int, ...]
    limit: float


CASES = {
    "sd15": Case("Stable Diffusion 1.5, float32", "no", "float32", 2, (1, 4), 8e9),
    "sdxl": Case("SDXL, bfloat16", "bf16", "bfloat16", 2, (1,), 20e9),
}
LAUNCH = (
    *("-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1", "--cpu"),
    *("--num_machines", "1", "--dynamo_backend", "no", "--quiet"),
)
"""`accelerate launch` of one process on the CPU, which asks nothing."""


def measured(command: Sequence[str]) -> dict[str, Any]:
    """Runs Python with these arguments; its status, seconds, processor seconds, peak bytes of the
    largest process, and the lines that it said.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads()}
    start = time.time()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = [line.rstrip() for line in said.read().replace("\r", "\n").splitlines()]
    return {
        "status": process.returncode,
        "started": start,
        "seconds": round(time.time() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "said": [line for line in lines if line],
    }


def threads() -> str:
    """As many as there are processors, unless the environment says otherwise."""
    return os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))


# --- the parts ------------------------------------------------------------------------------------


def training(case: Case, teacher: Path, data: Path, output: Path) -> list[str]:
    """The documented command, for little time."""
    return [
        *(*LAUNCH, "--mixed_precision", case.precision, str(ROOT / "train_lcm_lora.py")),
        *("--pretrained_teacher_model", str(teacher), "--train_data_dir", str(data)),
        *("--output_dir", str(output), "--resolution", str(RESOLUTION)),
        *("--train_batch_size", "1", "--max_train_steps", str(case.updates)),
        *("--mixed_precision", case.precision, "--gradient_checkpointing", "selective"),
        *("--logging_steps", "1", "--validation_prompts", "a red star on a navy background"),
        *("--validation_num_steps", *map(str, case.num_steps), "--validation_teacher_steps", "0"),
    ]


def parts_of(
    name: str, case: Case, folder: Path, is_tiny: bool
) -> list[tuple[str, list[str], Path | None]]:
    """What is run, by name, each with the folder that is known in its size afterwards."""
    teacher, data, output = folder / "teacher", folder / "data", folder / "out"
    train = training(case, teacher, data, output)
    worker = ["-m", "benchmarks.real_size_parts"]
    tiny = ["--tiny"] if is_tiny else []
    verify = ["-m", "lcm", "verify", str(output), "--base", str(teacher)]
    return [
        ("build", [*worker, "build", name, str(teacher), case.dtype, *tiny], teacher),
        (
            "data",
            ["-m", "examples.shapes.render", "--output_dir", str(data), "--num_images=4"],
            data,
        ),
        ("dry run", [*train, "--dry_run"], None),
        ("train", train, output),
        ("lcm verify", verify, None),
        ("draw", [*worker, "draw", str(teacher), str(output), case.dtype], None),
    ]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def without_places(line: str, folder: Path) -> str:
    """A line of a command without the folders of this machine, which say nothing to others."""
    for place in (folder, Path(sys.prefix), Path(__file__).parents[1]):
        line = line.replace(f"{place}/", "")
    return line


def run(name: str, folder: Path, is_tiny: bool = False) -> dict[str, Any]:
    """All parts of one model, up to the first that fails."""
    case, parts = CASES[name], {}
    for part, command, kept in parts_of(name, case, folder, is_tiny):
        print(f"{case.title}: {part}", flush=True)
        parts[part] = measured(command)
        parts[part]["said"] = [without_places(line, folder) for line in parts[part]["said"]]
        if kept is not None and kept.exists():
            parts[part]["bytes"] = folder_bytes(kept)
        print(f"    {parts[part]['seconds']} s, status {parts[part]['status']}", flush=True)
        if parts[part]["status"]:
            print(*parts[part]["said"][-20:], sep="\n", flush=True)
            break
    found: dict[str, Any] = {"title": case.title, "limit_bytes": case.limit, "parts": parts}
    found["updates"] = case.updates
    if "train" in parts:
        found["timeline"] = timeline(folder / "out", case, parts["train"]["started"])
        found["sizes"] = {
            path.relative_to(folder / "out").as_posix(): path.stat().st_size
            for path in sorted((folder / "out").rglob("*.safetensors"))
        }
    if "dry run" in parts:
        found["foreseen"] = foreseen(parts["dry run"]["said"])
    return found


def timeline(output: Path, case: Case, start: float) -> dict[str, float]:
    """The seconds of the parts of a training, by the moments at which it finished its files."""
    last = f"checkpoint-{case.updates}"
    moments = {
        "loading": "config.yaml",
        "first pictures": "validation/step-000000.png",
        "updates and state": f"{last}/state.safetensors",
        "adapter, proven": f"{last}/pytorch_lora_weights.safetensors",
        "result": "pytorch_lora_weights.safetensors",
        "last pictures": "images/grid.png",
    }
    found = {}
    for part, file in moments.items():
        if (path := output / file).exists():
            # of its name, which it gets when it is whole
            moment = path.stat().st_ctime
            found[part], start = round(moment - start, 1), moment
    return found


def foreseen(said: list[str]) -> dict[str, Any]:
    """What a dry run says of memory, time and disk, in its own words."""
    patterns = {
        "memory": r"peak (\S+ \S+) of",
        "memory with libraries": r"with all libraries (\S+ GiB)",
        "seconds an update": r"(\S+) s an update",
        "time after loading": r"(\S+(?: s)?) to the end of the run",
        "disk": r"disk +(\S+ \S+) for",
        "verdict": r"(this run .*)",
    }
    text = "\n".join(said)
    return {name: m[1] for name, pattern in patterns.items() if (m := last(pattern, text))}


def last(pattern: str, text: str) -> re.Match[str] | None:
    found = list(re.finditer(pattern, text))
    return found[-1] if found else None


# --- the tables -----------------------------------------------------------------------------------


def real_size_table(results: dict[str, Any]) -> str:
    """A line a part, then what was foreseen beside what came."""
    rows, forecasts = [], []
    for found in results["models"].values():
        parts, title = found["parts"], found["title"]
        for name, part in parts.items():
            size = f"{part['bytes'] / GIGA:.2f}" if "bytes" in part else ""
            status = "" if part["status"] == 0 else f" (status {part['status']})"
            seconds = [f"{part['seconds']:.0f}", f"{part['cpu_seconds']:.0f}"]
            peak = f"{part['peak_bytes'] / GIGA:.2f}"
            rows.append([f"{title}, {name}{status}", *seconds, peak, size])
        for name, time_taken in found.get("timeline", {}).items():
            rows.append([f"{title}, train: {name}", f"{time_taken:.0f}", "", "", ""])
        forecasts += comparison(found)
    head = ["part", "seconds", "of processors", "peak GB", "GB written"]
    lines = table(head, rows)
    return f"{lines}\n\n{table(['dry run against run', 'foreseen', 'came'], forecasts)}"


def comparison(found: dict[str, Any]) -> list[list[str]]:
    """What a dry run foresaw beside what the run took."""
    title, words, train = found["title"], found.get("foreseen", {}), found["parts"].get("train")
    if train is None:
        return []
    after = train["seconds"] - found["timeline"].get("loading", 0)
    peak = f"{train['peak_bytes'] / 2**30:.2f} GiB"
    return [
        [f"{title}, memory of tensors", words.get("memory", "-"), ""],
        [f"{title}, memory with libraries", words.get("memory with libraries", "-"), peak],
        [f"{title}, after loading", words.get("time after loading", "-"), f"{after:.0f} s"],
        [f"{title}, disk", words.get("disk", "-"), f"{train.get('bytes', 0) / 2**20:.0f} MiB"],
    ]


def faults(found: dict[str, Any]) -> list[str]:
    """What failed, or took more memory than it may."""
    wrong = []
    for name, part in found["parts"].items():
        if part["status"]:
            wrong.append(f"{found['title']}, {name}: status {part['status']}")
        if part["peak_bytes"] > found["limit_bytes"]:
            wrong.append(f"{found['title']}, {name}: {part['peak_bytes'] / GIGA:.1f} GB")
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "real_size")
    parser.add_argument("--results_dir", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true", help="a few channels wide, as a rehearsal")
    args = parser.parse_args(argv)
    path, wrong = args.results_dir / NAME, []
    results = json.loads(path.read_text()) if path.exists() else {"models": {}}
    for name in args.models:
        folder = args.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        found = run(name, folder, args.tiny)
        found |= {"torch": version("torch"), "threads": threads()}
        results["models"][name] = found
        write_json(path, results)
        wrong += faults(found)
        shutil.rmtree(folder, ignore_errors=True)
    print(real_size_table(results))
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
