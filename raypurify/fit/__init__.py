"""Fit: from labelled clean images to a bundle, in stages that are pure steps over files.

A method has a graph of stages (``graphs.GRAPHS``); each reads the folders of some before it and fills its own:

    rsfp  stl
    x     x    prepare           images of any container, decoded, resized, shuffled, split        Ray Data
    x          baseline          the plain network                                                 Ray Train
          x    dae               the denoising auto-encoder                                        Ray Train
    x     x    latents           what that network makes of every training image                   Ray Data, actors
    x          clusters          k-means with the elbow and the distributions, a class a task      Ray tasks
          x    strata            PCA and k-means over all classes together                         Ray tasks
    x     x    samples           images for dictionaries, where settings give them another size    Ray Data
    x     x    dictionaries      atoms for every cluster, learned from a sample of its images      actors
    x          robust_first      a robust network to start from, where the settings ask for one    Ray Train
    x          robust            the robust network: PGD and the pull to the clusters              Ray Train
    x          robust_latents    what a robust network that is not pulled makes of these images    Ray Data, actors
    x          robust_clusters   the distributions of the same clusters in those                   Ray tasks
    x     x    calibrate         the bundle, and what it measures on held-out images               a task

``run.fit`` works through them. A run directory, on a disk or in a store, has a folder for each stage, RUN/STAGE, and
at the end RUN/bundle. A stage's fingerprint covers the settings that decide its output and the fingerprints of the
stages that it reads; ``run_stage`` writes it down, with the stage's report, when the stage is complete. The same
fingerprint again: skipped. Interrupted: the stage is called anew and does what is left. Another fingerprint: done
over. Settings that only change where or how fast work is done (actors, block sizes, checkpoints) take no part in it.

The mathematics is elsewhere (``training``, ``clusters``, ``csc``); modules here cut the work, carry it by Ray, and put
files in place whole.

To add a stage: a module with a function (folder, inputs, settings, seed) → report that can be killed anywhere and
called again, and that reads and writes by ``storage.Place`` alone; a ``graph.Stage`` in the graphs of its methods,
which says on which settings and which stages it depends. The report is JSON, kept with the fingerprint: what later
stages may ask for. To add a method: a module with its graph, as ``stl``, and its entry in ``graphs.GRAPHS``.
"""
