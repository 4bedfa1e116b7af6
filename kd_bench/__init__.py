"""kd-bench: which distillation method helps, by how much, and how confident you can be."""

__version__ = "0.2.0"
