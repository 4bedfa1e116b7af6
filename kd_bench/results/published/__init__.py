"""Accuracies reported by papers and other projects, one file per source."""
