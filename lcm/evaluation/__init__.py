"""How good few-step pictures are: drawn resumably, beside the teacher's of the same prompts and
seeds, measured by a table of metrics with intervals, and shown on one page.
"""
