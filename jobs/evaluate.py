"""Ray job: evaluate purifiers.

``ray job submit --working-dir . -- python jobs/evaluate.py benchmarks/grids/cifar10.yaml --data DIR --out DIR``

The arguments are those of ``raypurify evaluate``. Paths are looked up on the cluster, so give absolute ones, or URIs.
"""

import sys

from raypurify.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
