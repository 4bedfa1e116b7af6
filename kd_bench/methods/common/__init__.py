"""Code shared by the methods: the weighted sum of losses, formulas, adapters."""
