"""Every metric as one object: name, unit, direction, estimate with interval, and paired contrast."""
