"""Generated parts of the documentation: blocks in Markdown, tables and pages of methods."""
