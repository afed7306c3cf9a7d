"""Ray job: train the robust network of a fit, after what it needs.

``ray job submit --working-dir . -- python jobs/train_robust.py --data URI --preset cifar10 --run-dir URI``

The arguments are those of ``raypurify fit``; the job ends after the stage ``robust``, and any later one into the same
run directory goes on from there. Paths are looked up on the cluster, so give absolute ones, or URIs. The last line of
its output is JSON.

This stage is of the method rsfp: stl has none like it.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("fit", "--until", "robust")
