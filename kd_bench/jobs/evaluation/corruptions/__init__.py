"""Image corruptions at five strengths, after CIFAR-C: one file per kind."""
