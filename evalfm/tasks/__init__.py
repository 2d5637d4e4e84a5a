"""Questions about images: cards, the truth they find in a manifest, and their metrics."""
