"""What several commands share: their parser, whose code a record may call, and the display."""
