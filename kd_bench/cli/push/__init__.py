"""kd-bench push: finished runs in the trackers of other libraries."""
