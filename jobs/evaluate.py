"""Ray job: attack classifiers, purify, classify, and report.

``ray job submit --working-dir . -- python jobs/evaluate.py GRID --data DIR --out URI``

The arguments are those of ``raypurify evaluate``. Paths are looked up on the cluster, so give absolute ones, or URIs.
The last line of its output is JSON.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("evaluate")
