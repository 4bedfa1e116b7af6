"""What the documentation shows and a command makes: blocks in Markdown, the table of methods."""
