"""`python -m taskq` is `taskq`."""

from __future__ import annotations

from taskq.cli import main

if __name__ == "__main__":
    main()
