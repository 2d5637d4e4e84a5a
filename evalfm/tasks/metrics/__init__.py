"""What is reported per kind of task: metrics with their intervals, patients resampled as wholes."""
