"""Fit: from labelled clean images to a bundle, in stages that are pure steps over files.

The stages, in order; each reads the folders of those before it and fills its own:

    prepare        images of any container, decoded, resized, shuffled, split        Ray Data
    baseline       the plain network                                                 Ray Train
    latents        R(x) of every training image, a Parquet file per unit and class   Ray Data, a pool of actors
    clusters       k-means with the elbow and the distributions, a class a task      Ray tasks
    dictionaries   atoms for every cluster, learned from a sample of its images      actors
    robust_first   a robust network to start from, where the settings ask for one    Ray Train
    robust         the robust network: PGD and the pull to the clusters              Ray Train
    calibrate      the bundle, and what it measures on held-out images               a task

``run.fit`` calls them. A run directory, on a disk or in a store, has a folder for each stage, RUN/STAGE, and at the end
RUN/bundle. A stage's fingerprint covers the settings that decide its output and the fingerprints of the stages that it
reads; ``run_stage`` writes it down, with the stage's report, when the stage is complete. The same fingerprint again:
skipped. Interrupted: the stage is called anew and does what is left. Another fingerprint: done over. Settings that only
change where or how fast work is done (actors, block sizes, checkpoints) take no part in it.

The mathematics is elsewhere (``training``, ``clusters``, ``csc``); modules here cut the work, carry it by Ray, and put
files in place whole.

To add a stage: a module with a function (folder, inputs, settings, seed) → report that can be killed anywhere and
called again, and that reads and writes by ``storage.Place`` alone; its name in ``run.STAGES``, in order; a call in
``run._stages`` that says which settings and which stages it depends on. The report is JSON, kept with the fingerprint:
what later stages may ask for.
"""
