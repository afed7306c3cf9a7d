"""Ray job: train a classifier on purified images.

``ray job submit --working-dir . -- python jobs/retrain.py GRID --classifier NAME --purifier NAME --run-dir URI``

The arguments are those of ``raypurify retrain``. Paths are looked up on the cluster, so give absolute ones, or URIs.
The last line of its output is JSON.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("retrain")
