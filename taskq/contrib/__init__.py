"""What connects taskq with frameworks. Each module needs its framework installed."""
