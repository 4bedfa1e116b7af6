"""kd-bench new, and the files from which it makes a method, a model and a dataset."""
