"""kd-bench evaluate: weights, missing metrics, corrupted images, linear probes."""
