"""One NVIDIA card in ten minutes: what a training step, few-step sampling and serving cost on it,
and whether the toolkit is right there. `python -m benchmarks.gpu`; README.md beside this folder has
the rest.
"""
