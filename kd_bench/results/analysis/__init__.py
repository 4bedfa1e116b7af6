"""Statistics of a table's runs: tests, intervals and variances, from plain numbers."""
