"""Compiles every Triton kernel of this package for a GPU that need not be there, and prints what each takes, as JSON.

    python ahead_of_time.py 90

The functions that launch kernels are called with tensors on the CPU; in place of a launch the kernel is compiled for
that compute capability, as Triton would for these arguments.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

# Atoms (M, C, h, w) and sides of an image.
LARGE = ((64, 3, 8, 8), (224, 224))
SMALL = ((1, 1, 4, 3), (5, 4))


def main() -> None:
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda _: 0, get_current_target=lambda: target)
    )
    run, compiled = JITFunction.run, []

    def compile_alone(self, *args, grid, warmup, **kwargs):
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    JITFunction.run = compile_alone
    for what, launch in launches():
        launch()
        print(json.dumps({"what": what, "kernel": compiled[-1].metadata.name} | taken(compiled[-1])), flush=True)


def launches():
    """Every kernel with each of its constants that change what it does, and where every size that may be 1 is 1."""
    yield from descent("", *LARGE, (None, 1), (False, True))
    yield from descent(", small", *SMALL, (None,), (False,))
    yield from admm()


def descent(name, atoms, size, masks, signs):
    from raypurify.csc import _gpu_descend, _gpu_join, _gpu_screen
    from raypurify.csc._descent_cells import lay_grid

    (height, width), (count, channels, h, w) = size, atoms
    atoms, signal = torch.zeros(1, *atoms), torch.zeros(1, channels, *size)
    grid, room = lay_grid(height, width, h, w), 32
    residual, row = torch.zeros(1, channels, height + h - 1, width + w - 1), torch.zeros(1, dtype=torch.int64)
    keys, level = torch.zeros(1, grid.cells, room, dtype=torch.int32), torch.ones(1)
    codes = (keys, torch.zeros_like(keys, dtype=torch.float32), torch.zeros(1, grid.cells, dtype=torch.int32))
    energies, taps = torch.ones(1, count), _gpu_screen.lay_taps(atoms, height, width)
    best = torch.zeros(1, -(-height // 2) * -(-width // 2))
    places = torch.zeros_like(best, dtype=torch.int32)
    cells, dirty = grid.colours(signal.device)[0], torch.ones(1, grid.cells, dtype=torch.int32)
    for mask in masks:
        squares, seen = mask and signal, name + (mask is not None) * ", mask"
        yield (
            f"renew{seen}",
            lambda w=squares: _gpu_descend.renew_residual(residual, signal, row, atoms, row, w, codes, grid),
        )
        for nonneg in signs:
            which = seen + ", nonneg" * nonneg
            fixed = (residual, row, atoms, energies, row, squares, codes, grid, level, nonneg)
            yield f"inspect{which}", lambda fixed=fixed: _gpu_descend.inspect(*fixed)
            yield f"descend{which}", lambda fixed=fixed: _gpu_descend.descend(*fixed, level, dirty, cells)
    for wanted in (None, torch.ones(1, dtype=torch.bool)):
        for nonneg in signs:
            which = name + (wanted is not None) * ", float32" + ", nonneg" * nonneg
            yield (
                f"screen{which}",
                lambda w=wanted, n=nonneg: _gpu_screen.screen(residual, atoms, taps, row, best, places, n, w),
            )
    yield f"join{name}", lambda: _gpu_join.join(best, places, level, codes, room, size, grid)


def admm():
    from raypurify.csc import _gpu_kernels

    state = torch.zeros(4, 64, 32, 32)
    maps, signals = torch.zeros(4, 64, 32, 17, dtype=torch.complex64), torch.zeros(4, 3, 32, 17).to(torch.complex64)
    spectra, solver = maps[:1, None].repeat(4, 3, 1, 1, 1), signals[:, None].repeat(1, 3, 1, 1, 1)
    rows = torch.arange(4)
    for nonneg in (False, True):
        which = ", nonneg" * nonneg
        yield f"update{which}", lambda n=nonneg: _gpu_kernels.update_state(state, state, torch.ones(4), 1.8, n)
    for some in (1, 4):
        yield (
            f"correct, {some} dictionaries",
            lambda k=some: _gpu_kernels.correct_spectra(maps, spectra[:k], solver[:k], signals, rows),
        )


def taken(kernel) -> dict:
    """Registers of a thread, and bytes of shared memory and of spilled registers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        said = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    found = {name: int(re.search(rf"\b{name}:(\d+)", said)[1]) for name in ("REG", "STACK", "LOCAL")}
    return {
        "warps": kernel.metadata.num_warps,
        "registers": found["REG"],
        "spilled": found["STACK"] + found["LOCAL"],
        "shared": kernel.metadata.shared,
    }


if __name__ == "__main__":
    main()
