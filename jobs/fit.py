"""Ray job: fit a bundle.

``ray job submit --working-dir . -- python jobs/fit.py --data URI --preset cifar10 --run-dir DIR``

The arguments are those of ``raypurify fit``. Paths are looked up on the cluster, so give absolute ones, or URIs.
"""

import sys

from raypurify.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "fit")
    main()
