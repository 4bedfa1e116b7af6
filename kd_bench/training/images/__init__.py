"""Images as networks see them in training: mixed, and to be looked at."""
