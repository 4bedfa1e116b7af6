"""What methods share: the weighted sum of losses, formulas, adapters."""
