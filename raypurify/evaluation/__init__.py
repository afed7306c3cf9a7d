"""Evaluation: classifiers × attacks × purifiers on the same images, as cells, tables and a report.

A **grid** (one YAML file, :mod:`raypurify.evaluation.grid`, its parts in ``specs``) names images, classifiers, attacks
and purifiers. A **cell** is one classifier under one attack behind one purifier; on one batch of images it is one file,
whose key is a digest of all that decides its content. The path of the work:

    grid ─► plan (digests, keys, what is missing) ─► units in actors (cells, checks) ─► tables ─► report

``plan`` resolves names once; ``run`` lets Ray actors work off its units; ``report`` reads the files that the plan
names. ``own`` finds code of the user's own that a grid names and brings it to workers, ``contract`` checks what it
gives. ``groups`` says which attacks are taken together; ``bits`` keeps what became of every image, and computes the
figures from it again. ``retrain`` makes another classifier for a grid: one trained on purified images.

**To add a kind of classifier:** one loader and one entry in :mod:`raypurify.evaluation.classifiers`. Attacks and
purifiers come from ``attacks.ATTACKS`` and ``purifiers.PURIFIERS``; a new entry there can be named in a grid at once. A
paper's figures to compare with are one entry of ``papers.TABLES``; what an attacker may know, one case of
:mod:`raypurify.evaluation.threat_model` and one name in ``specs.KNOWS``.
"""
