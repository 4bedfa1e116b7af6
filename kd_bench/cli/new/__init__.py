"""kd-bench new, and its templates for a method, a model and a dataset."""
