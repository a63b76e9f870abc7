"""The adapter and its file: layers, recipe, header, export, where a file is."""
