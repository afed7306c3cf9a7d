"""Ray job: purify a set.

``ray job submit --working-dir . -- python jobs/purify.py IN OUT --bundle cifar10``

The arguments are those of ``raypurify purify``. Paths are looked up on the cluster, so give absolute ones, or URIs.
"""

import sys

from raypurify.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "purify")
    main()
