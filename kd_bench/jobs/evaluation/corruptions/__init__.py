"""Corruptions of images at five strengths, after CIFAR-C: a file for each of their kinds."""
