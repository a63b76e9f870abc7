"""The teacher's own rows: DDIM with few steps, against which students are read, and the other
samplers of diffusers.

Every row is written as soon as it is measured, and none is measured twice. `benchmarks.methods.run`
does it under the name "teacher".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers

from benchmarks.methods.scoring import load_reference, measure
from examples.shapes.demo import TEACHER
from examples.shapes.evaluate import generate, load_pipe, prompts_and_seeds
from examples.shapes.judge import Judge

RESULTS = Path(__file__).parent / "results"
NAME = "teacher.json"
GUIDANCE_SCALE = 5.0
CURVE_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 25, 50)
CURVE_IMAGES = 768
SAMPLERS = {
    "DDIM": "DDIMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DPM-Solver++ 2M": "DPMSolverMultistepScheduler",
    "DDPM": "DDPMScheduler",
}
EVALUATIONS = (4, 8, 20, 40)
SAMPLER_IMAGES = 384


def steps_for(sampler: str, evaluations: int) -> int:
    """The most steps within a number of network evaluations: Heun's take two each, the last one."""
    return (evaluations + 1) // 2 if sampler == "Heun" else evaluations


def write_json(path: Path, content: Any) -> None:
    """Complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def read_rows(results: Path) -> list[dict[str, Any]]:
    """The rows measured so far."""
    path = results / NAME
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def row_key(row: dict[str, Any]) -> tuple[str, str, int]:
    """What a row is about; measuring it again with another number of pictures replaces it."""
    return row["part"], row["sampler"], row["steps"]


def ddim_curve(results: Path) -> dict[int, float]:
    """Steps -> NMSE, complete or empty."""
    curve = {
        row["steps"]: row["endpoint_nmse"] for row in read_rows(results) if row["part"] == "curve"
    }
    return curve if set(curve) >= set(CURVE_STEPS) else {}


def measure_teacher(results: Path, num_reference_images: int) -> None:
    """Adds the missing rows to teacher.json. NMSE is to the endpoints of 40 DDIM steps with the
    same seeds.

    The first 768 of the reference are drawn for the curve, the first 384 for the other samplers.
    """
    reference, judge = load_reference(TEACHER, num_reference_images, GUIDANCE_SCALE), Judge.load()
    plan = [("curve", "DDIM", n, n, min(CURVE_IMAGES, num_reference_images)) for n in CURVE_STEPS]
    plan += [
        ("samplers", name, steps_for(name, n), n, SAMPLER_IMAGES)
        for n in EVALUATIONS
        for name in SAMPLERS
    ]
    pipe = load_pipe(TEACHER)
    base_config = pipe.scheduler.config
    rows = {row_key(row): row for row in read_rows(results)}
    for part, name, steps, budget, images in plan:
        facts = {"part": part, "sampler": name, "steps": steps, "budget": budget}
        if rows.get(row_key(facts), {}).get("images") == images:
            continue
        pipe.scheduler = getattr(diffusers, SAMPLERS[name]).from_config(
            base_config, timestep_spacing="trailing"
        )
        latents = generate(pipe, *prompts_and_seeds(images), steps, GUIDANCE_SCALE)
        facts["evaluations"] = len(pipe.scheduler.timesteps)
        rows[row_key(facts)] = {
            **facts,
            **measure(pipe, judge, latents, reference, is_paired=name != "DDPM"),
        }
        write_json(results / NAME, list(rows.values()))
        print(
            f"teacher: {name}, steps {steps}: {rows[row_key(facts)]['all_right']:.1%}", flush=True
        )
