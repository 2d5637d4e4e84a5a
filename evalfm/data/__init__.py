"""Images and questions come in as a table."""
