"""Ray job: purify a set.

``ray job submit --working-dir . -- python jobs/purify.py IN OUT --bundle cifar10``

The arguments are those of ``raypurify purify``. Paths are looked up on the cluster, so give absolute ones, or URIs.
The last line of its output is JSON.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("purify")
