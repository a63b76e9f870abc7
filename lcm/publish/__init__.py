"""What others see of a run: the model card, snippets, the hub, the report page."""
