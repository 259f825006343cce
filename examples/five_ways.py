"""The same work in plain Python and in each of taskq's ways, compared.

    python examples/five_ways.py                    # brings its own Redis and workers
    python examples/five_ways.py --svg ways.svg     # the chart as a file

The tasks are in taskq/demo/ways_tasks.py: one decorator, five ways.
"""

from __future__ import annotations

import sys

from taskq.cli import main

if __name__ == "__main__":
    main(["demo", "--ways", *sys.argv[1:]])
