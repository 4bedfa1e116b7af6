"""What the runs of a table show: tests, intervals and variances, from plain numbers."""
