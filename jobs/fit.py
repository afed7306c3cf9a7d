"""Ray job: fit a bundle.

``ray job submit --working-dir . -- python jobs/fit.py --data URI --preset cifar10 --run-dir URI``

The arguments are those of ``raypurify fit``, ``--method`` and ``--until`` among them. Paths are looked up on the
cluster, so give absolute ones, or URIs. The last line of its output is JSON.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("fit")
