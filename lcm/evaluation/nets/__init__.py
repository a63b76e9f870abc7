"""Networks that look at pictures, one file each, loaded from safetensors or by torch's loader of
weights alone.
"""
