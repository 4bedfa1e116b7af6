"""An HTML page of all results: a table, curves and runs of each cell, comparison of two methods."""
