"""kd-bench evaluate: weights, what records lack, corrupted images, linear probes."""
