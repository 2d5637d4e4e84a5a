"""What heads learn on: features of images kept on disk, computed on the fly, or read from a table."""
