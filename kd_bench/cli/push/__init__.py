"""kd-bench push: copies finished runs to experiment trackers."""
