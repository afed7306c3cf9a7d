"""Sets of images on disk, in and out: what a job reads and where it writes, whatever holds the images.

* A **container** is one way in which a set of images lies on disk: a folder of files, Parquet files, WebDataset tars,
  arrays of NumPy. The output of a job is of the container of its input.
* A **source** is an input that was looked at once: how many images, their classes, a digest, and its shards.
  ``open_source`` makes it; ``select`` takes a part of it.
* A **look** is what one file holds, as plain data; those into all files of an input make its **plan**.
* A **shard** is the unit of work and of commit: some hundred images that one task reads, purifies and writes. Its
  ``cut`` says in the container's own terms which images these are; no one else looks into it.
* A **sink** is an output that was claimed for one job: ``open_sink`` claims it, ``write_shard`` writes and commits one
  shard, ``finish`` sums up.
* The **ledger** is what the output records of itself, in ``OUT/_raypurify``: the job, which shards are committed, the
  provenance of every image, the errors of those that could not be purified.
* The **lease** keeps a second job from writing to the same output.

The path of a row: ``open_source`` lists the files that names and patterns stand for, chooses their container, lets it
``look`` into each and merge the looks into a ``plan``; the plan's portions become numbered shards, which travel to the
actors; ``read_shard`` lets the container ``read`` the rows of one, bytes as stored; what became of each goes to
``write_shard``, which lets the container ``write`` the images and then commits the shard to the ledger, last of all
its provenance.

**To add a container:** write one file with its cut, ``look``, ``plan``, ``read``, ``pick`` and ``write``
(:class:`raypurify.containers.contract.Container` says what each promises; :mod:`raypurify.containers.packed` has what
files of many images share), enter it in :mod:`raypurify.containers.registry`, and give
``tests/containers/test_container_contract.py`` a function that writes a small one.
"""
