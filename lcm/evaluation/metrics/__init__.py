"""The metrics, a file and a line each; what differs in its network alone shares a file."""

from __future__ import annotations

from lcm.evaluation.metric import Metric
from lcm.system.registry import Table

PLACE = "lcm.evaluation.metrics"

METRICS: Table[Metric] = Table(
    "metric",
    {
        "nmse": f"{PLACE}.nmse:NMSE",
        "teacher_steps": f"{PLACE}.teacher_steps:TEACHER_STEPS",
        "lpips": f"{PLACE}.lpips:LPIPS",
        "diversity": f"{PLACE}.diversity:DIVERSITY",
        "vendi": f"{PLACE}.vendi:VENDI",
        "color_shift": f"{PLACE}.color_shift:COLOR_SHIFT",
        "contrast": f"{PLACE}.contrast:CONTRAST",
        "clip_score": f"{PLACE}.clip_score:CLIP_SCORE",
        "pick_score": f"{PLACE}.pick_score:PICK_SCORE",
        "hpsv2": f"{PLACE}.hpsv2:HPSV2",
        "fd_dinov2": f"{PLACE}.frechet:FD_DINOV2",
        "kid_dinov2": f"{PLACE}.kid:KID_DINOV2",
        "fd_inception": f"{PLACE}.frechet:FD_INCEPTION",
        "kid_inception": f"{PLACE}.kid:KID_INCEPTION",
        "precision": f"{PLACE}.precision_recall:PRECISION",
        "recall": f"{PLACE}.precision_recall:RECALL",
        "density": f"{PLACE}.density_coverage:DENSITY",
        "coverage": f"{PLACE}.density_coverage:COVERAGE",
        "seconds": f"{PLACE}.cost:SECONDS",
        "unet_calls": f"{PLACE}.cost:UNET_CALLS",
        "peak_memory": f"{PLACE}.cost:PEAK_MEMORY",
    },
)
"""What `lcm evaluate` measures; `METRICS.add` takes others."""

GROUPS = {
    "paired": "Distance to the teacher's picture of the same prompt and seed",
    "distribution": "Distance between sets of pictures",
    "text": "Text and preference",
    "diversity": "Diversity within a prompt",
    "color": "Colour and contrast",
    "cost": "Cost of a picture",
}
"""Headings, in their order; a metric may name another group, which comes last."""
