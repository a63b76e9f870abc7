"""Base models: loading, conditioning, the networks in their three roles."""
