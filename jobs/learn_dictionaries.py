"""Ray job: learn the dictionaries of a fit, after what they need.

``ray job submit --working-dir . -- python jobs/learn_dictionaries.py --data URI --preset cifar10 --run-dir URI``

The arguments are those of ``raypurify fit``; the job ends after the stage ``dictionaries``, and any later one into the
same run directory goes on from there. Paths are looked up on the cluster, so give absolute ones, or URIs. The last line
of its output is JSON.

Every method has this stage: give the preset, or ``--method``.
"""

from raypurify.cli.job import run_job

if __name__ == "__main__":
    run_job("fit", "--until", "dictionaries")
