"""Text output: escaping, formatting, printing, tables in a terminal."""
