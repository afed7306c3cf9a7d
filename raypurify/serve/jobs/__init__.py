"""Bulk jobs that callers post: ``/v1/jobs`` purifies data sets by the same engine and ledger as ``raypurify purify``.

    POST ─► Jobs (a deployment of one replica) ─► python -m raypurify purify IN OUT ─► the cluster
                 │ registry                            │ lease, ledger
                 ▼                                     ▼
        ROOT/.raypurify-jobs/<id>.json             OUT/_raypurify/

``roots`` says where jobs may read and write, ``request`` what may be asked, ``registry`` keeps what was asked below the
roots, ``driver`` is the process that does a job and ``leash`` what ends it with its supervisor, ``links`` says which
links it may meet, ``bundles`` whether it can go on with the bundle that is served, ``tally`` reads how far it is from
the ledger, ``supervisor`` holds all of this together without Ray, and ``deployment`` puts it on the cluster.

What is known about a job lies in files. So whoever dies, the next supervisor goes on, and the lease of an output keeps
two drivers apart.
"""
