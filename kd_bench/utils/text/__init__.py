"""Text for people: escaped, formatted, printed, in a grid."""
