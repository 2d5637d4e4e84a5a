"""Few-shot episodes on one encoder: posed, answered by several methods, published."""
