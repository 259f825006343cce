"""Our view of Redis: the only importer of redis and rq."""
