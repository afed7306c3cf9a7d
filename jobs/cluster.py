"""Ray job: cluster the latents of a fit, after what it needs.

``ray job submit --working-dir . -- python jobs/cluster.py --data URI --preset cifar10 --run-dir URI``

The arguments are those of ``raypurify fit``; the job ends after the stage ``clusters``, and any later one into the same
run directory goes on from there. Paths are looked up on the cluster, so give absolute ones, or URIs. The last line of
its output is JSON.

This stage is of the method rsfp. Of stl it is ``jobs/fit.py --preset cifar10-stl … --until strata``.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("fit", "--until", "clusters")
