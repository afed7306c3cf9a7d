"""Peak memory and time of sparse coding, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path


def in_fresh_process(data: str, layout: tuple[int, int, int], sparse: bool) -> dict:
    """What :func:`measure` finds, with the memory of no other case behind it."""
    command = [sys.executable, __file__, data, *map(str, layout), str(int(sparse))]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def measure(data: str, layout: tuple[int, int, int], sparse: bool) -> dict:
    """Time and peak memory of coding ``layout``: how many images, each a mosaic of how many photos down and right."""
    import torch
    from csc_signals import CORES, REL_TOL, high_parts
    from processes import forget_peak, peak_memory

    import raypurify
    from raypurify.csc import solve_cbpdn
    from raypurify.evaluation.clock import clock

    torch.set_num_threads(CORES)
    count, down, right = layout
    photos = high_parts(Path(data), "imagenette224/val.parquet", count * down * right)
    signal = photos.view(count, down, right, 3, 224, 224).permute(0, 3, 1, 4, 2, 5)
    signal = signal.reshape(count, 3, down * 224, right * 224).contiguous()
    del photos
    atoms = raypurify.load("cifar10").dictionaries[0]
    solve_cbpdn(atoms, signal[:, :, :64, :64].contiguous(), rel_tol=REL_TOL, sparse=sparse)
    forget_peak()
    before, begun = peak_memory(), clock()
    code = solve_cbpdn(atoms, signal, rel_tol=REL_TOL, sparse=sparse)
    return {
        "seconds": clock() - begun,
        "peak_bytes": peak_memory() - before,
        "pixels": signal[:, 0].numel(),
        "converged": bool(code.converged.all()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], tuple(map(int, sys.argv[2:5])), bool(int(sys.argv[5])))))
