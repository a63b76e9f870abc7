"""What a network may predict, in the words of diffusers. Imports nothing: command lines read it."""

from __future__ import annotations

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
