"""RQ's own test suite as judge of `taskq.worker.Worker`: `make rq-suite`."""
