"""An HTML page of all results: a table, curves and runs of each cell, two methods compared."""
