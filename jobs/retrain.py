"""Ray job: retrain a classifier on purified images.

``ray job submit --working-dir . -- python jobs/retrain.py GRID --classifier NAME --purifier NAME --run-dir DIR``

The arguments are those of ``raypurify retrain``. Paths are looked up on the cluster, so give absolute ones, or URIs.
"""

import sys

from raypurify.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "retrain")
    main()
