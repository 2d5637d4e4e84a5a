"""What changes an encoder so that it can be trained: LoRA, learning rates by depth, drop path, checkpointing."""
