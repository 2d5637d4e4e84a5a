"""The report: one HTML file of everything that runs say, for a reader who was not there."""
