"""Few-shot episodes on one encoder: drawn, solved by several methods, published."""
