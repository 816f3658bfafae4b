"""The only place that starts processes, opens ssh, takes locks and writes files atomically."""
