"""The read-only web page (import taskq.dashboard)."""
