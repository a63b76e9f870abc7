"""The metrics, one group a file and one line each."""

from __future__ import annotations

from lcm.evaluation.metric import Metric
from lcm.system.registry import Table

PLACE = "lcm.evaluation.metrics"

METRICS: Table[Metric] = Table(
    "metric",
    {
        "nmse": f"{PLACE}.paired:NMSE",
        "teacher_steps": f"{PLACE}.paired:TEACHER_STEPS",
        "lpips": f"{PLACE}.paired:LPIPS",
        "diversity": f"{PLACE}.diversity:DIVERSITY",
        "vendi": f"{PLACE}.diversity:VENDI",
        "color_shift": f"{PLACE}.color:COLOR_SHIFT",
        "contrast": f"{PLACE}.color:CONTRAST",
        "clip_score": f"{PLACE}.text:CLIP_SCORE",
        "pick_score": f"{PLACE}.text:PICK_SCORE",
        "hpsv2": f"{PLACE}.text:HPSV2",
        "fd_dinov2": f"{PLACE}.distribution:FD_DINOV2",
        "kid_dinov2": f"{PLACE}.distribution:KID_DINOV2",
        "fd_inception": f"{PLACE}.distribution:FD_INCEPTION",
        "kid_inception": f"{PLACE}.distribution:KID_INCEPTION",
        "precision": f"{PLACE}.distribution:PRECISION",
        "recall": f"{PLACE}.distribution:RECALL",
        "density": f"{PLACE}.distribution:DENSITY",
        "coverage": f"{PLACE}.distribution:COVERAGE",
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
