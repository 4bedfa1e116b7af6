"""Accuracies that papers and other code report, one file per source."""
