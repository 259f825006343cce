"""The runtime: what runs on every server (import taskq.worker)."""
