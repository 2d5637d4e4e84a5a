"""Training encoders and heads together: augmentation, optimisation, checkpoints."""
