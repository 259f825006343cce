"""The command line: the only part that reaches outward, to the worker and the dashboard."""
