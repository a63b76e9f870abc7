"""The tiny world: captioned 64x64 shapes, a complete Stable Diffusion teacher for them, and a judge
that scores images.
"""
