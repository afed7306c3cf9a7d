"""Pixels into files and files into pixels on one core, by the libraries that pip installs.

    python benchmarks/encoding.py --data DIR [--images 32] [--repeat 7] [--out FILE]

DIR holds ``imagenette224/val.parquet`` and ``cifar10/test.parquet``. The first ``--images`` of RGB of 224², and eight
times as many of 32², are purified by the bundles ``imagenet10`` and ``cifar10``. Ways to write them, and to read JPEG
and PNG files of them, are timed in turn, ``--repeat`` rounds, each on one thread, by the processor's time: a time is
the median, a ratio the median of the rounds' ratios to what raypurify does by default. Of every way that raypurify
could read it is checked that the pixels come back; of ways to read it is counted how many images come out with other
pixels. Ways whose package is not installed are left out, and named. ``floats`` are pixels to floats and back, the third
thing that a core beside a GPU does for each image.
"""

import argparse
import importlib
import io
import json
import statistics
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import processes
import pyarrow.parquet as pq
import torch
from PIL import Image, features
from timing import in_turn

import raypurify
from raypurify.images import Decoded, decode_image, encode_image, to_float, to_pixels
from raypurify.png import filtered
from raypurify.purifiers.batch import purify_pixels

RESULTS = Path(__file__).parent / "results" / "encoding.json"
# Name, file, bundle, and how many times as many images.
SETS = (
    ("224²", "imagenette224/val.parquet", "imagenet10", 1),
    ("32²", "cifar10/test.parquet", "cifar10", 8),
)
SMALL, FAST = "PNG, `small`, the default", "PNG, `fast`"
WHOLE = "decode_image"

Encode = Callable[[np.ndarray, Decoded], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "command": f"python benchmarks/encoding.py --data DIR --images {arguments.images} --repeat {arguments.repeat}",
        "machine": processes.machine(),
        **codecs(arguments.data, arguments.images, arguments.repeat),
    }
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(tables(results), cores(results), sep="\n\n")


def codecs(data: Path, count: int, repeat: int) -> dict:
    """Ways to write and to read images, on one core."""
    wanted = ("deflate", "isal", "imagecodecs", "cv2", "simplejpeg", "torchvision")
    packages = {name: found for name in wanted if (found := _imported(name))}
    versions = {name: getattr(module, "__version__", "") for name, module in packages.items()}
    versions |= {f"Pillow's {name}": str(features.version(name)) for name in ("zlib_ng", "libjpeg_turbo", "webp")}
    found: dict = {"versions": versions, "missing": sorted({*wanted} - {*packages}), "sets": {}}
    for name, file, bundle, times in SETS:
        rows = pq.read_table(data / file)["image"].slice(0, 2 * count * times).to_pylist()
        found_ = [(row, one) for row in rows if (one := decode_image(row)).mode == "RGB"][: count * times]
        files, opened = map(list, zip(*found_))
        purified = [result[0] for result in purify_pixels(raypurify.load(bundle), [one.pixels for one in opened])]
        images = list(zip(purified, opened))
        found["sets"][name] = {"images": len(images), "write": _written(images, encoders(packages), repeat)}
        times = in_turn({"floats": partial(_each, _as_floats, images)}, repeat, clock=time.process_time)
        found["sets"][name]["floats"] = _ms(times["floats"], len(images))
        png = [encode_image(*image) for image in images]
        jpeg = [_pillow("JPEG", quality=75)(*image) for image in images]
        for kind, written in (("PNG", png), ("JPEG", files if files[0][:2] == b"\xff\xd8" else jpeg)):
            found["sets"][name][f"read {kind}"] = _read(written, decoders(packages, kind), repeat)
    return found


def _imported(name: str) -> object:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError):  # torchvision's, where it is of another torch
        return None


def _written(images: list, ways: dict[str, Encode], repeat: int) -> dict[str, dict]:
    sides = {name: partial(_each, encode, images) for name, encode in ways.items()}
    sizes = {name: statistics.mean(map(len, _each(encode, images))) for name, encode in ways.items()}
    for name, encode in ways.items():
        if name.startswith(("PNG", "WebP")) and "Paeth" not in name:
            for pixels, like in images[:4]:
                assert np.array_equal(decode_image(encode(pixels, like)).pixels, pixels), name
    times = in_turn(sides, repeat, clock=time.process_time)
    return {
        name: {"ms": _ms(times[name], len(images)), "bytes": round(sizes[name]), "over": _over(times, name, SMALL)}
        for name in ways
    }


def _read(files: list[bytes], ways: dict[str, Callable], repeat: int) -> dict[str, dict]:
    sides = {name: partial(_each, decode, [(file,) for file in files]) for name, decode in ways.items()}
    theirs = [decode_image(file).pixels for file in files]
    differ = {
        name: sum(not np.array_equal(decode(file), pixels) for file, pixels in zip(files, theirs))
        for name, decode in ways.items()
        if name != WHOLE
    }
    times = in_turn(sides, repeat, clock=time.process_time)
    return {
        name: {"ms": _ms(times[name], len(files)), "differ": differ.get(name, 0), "over": _over(times, name, WHOLE)}
        for name in ways
    }


def _each(work: Callable, items: list) -> list:
    return [work(*item) for item in items]


def _as_floats(pixels: np.ndarray, like: Decoded) -> np.ndarray:
    return to_pixels(to_float(pixels))


def _ms(seconds: list[float], images: int) -> float:
    return float(f"{1e3 * statistics.median(seconds) / images:.3g}")


def _over(times: dict[str, list[float]], one: str, other: str) -> float:
    """The median of the ratios of each round: what else the machine does then is in both."""
    return round(statistics.median(mine / theirs for mine, theirs in zip(times[one], times[other])), 2)


def encoders(packages: dict) -> dict[str, Encode]:
    """Ways to write pixels, by their names; WebP, PNG, and what no decoder of raypurify reads."""
    ways: dict[str, Encode] = {SMALL: encode_image}
    if "deflate" in packages:
        ways[FAST] = partial(encode_image, compression="fast")
    ways |= {f"PNG, Pillow, level {level}": _pillow("PNG", compress_level=level) for level in (0, 3, 6)}
    for name, strategy in (("Huffman codes alone", 2), ("runs alone", 3)):
        ways[f"PNG, Pillow, level 1, {name}"] = _pillow("PNG", compress_level=1, compress_type=strategy)
    if cv2 := packages.get("cv2"):
        cv2.setNumThreads(1)
        for name, strategy in (("Huffman codes alone", 2), ("runs alone", 3)):
            settings = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, strategy]
            ways[f"PNG, OpenCV, level 1, {name}"] = partial(_opencv, cv2, settings)
    if codecs := packages.get("imagecodecs"):
        ways["PNG, imagecodecs (libspng), level 1"] = lambda pixels, like: codecs.spng_encode(pixels, level=1)
    if "isal" in packages:
        igzip = importlib.import_module("isal.isal_zlib")
        ways["PNG, Paeth's filter, isal, level 1"] = partial(_filtered, partial(igzip.compress, level=1))
    ways["PNG, Paeth's filter, Python's zlib, level 1"] = partial(_filtered, partial(zlib.compress, level=1))
    ways["WebP, `small`"] = partial(encode_image, format="webp")
    ways["WebP, `fast`"] = partial(encode_image, format="webp", compression="fast")
    ways["WebP, method 4"] = _pillow("WEBP", lossless=True, exact=True, quality=20, method=4)
    if codecs:
        ways["QOI, imagecodecs"] = lambda pixels, like: codecs.qoi_encode(pixels)
        jxl = partial(codecs.jpegxl_encode, lossless=True, effort=1, numthreads=1)
        ways["JPEG XL, imagecodecs, effort 1"] = lambda pixels, like: jxl(pixels)
    return ways


def _pillow(format: str, **options: object) -> Encode:
    def encode(pixels: np.ndarray, like: Decoded) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format, **options)
        return out.getvalue()

    return encode


def _opencv(cv2, settings: list[int], pixels: np.ndarray, like: Decoded) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1], settings)[1].tobytes()


def _filtered(deflate: Callable, pixels: np.ndarray, like: Decoded) -> bytes:
    """What takes the time of a PNG: the filter, and a checksum; with as many bytes as stand around that."""
    data = deflate(filtered(pixels))
    return data + zlib.crc32(data).to_bytes(57, "big")


def decoders(packages: dict, kind: str) -> dict[str, Callable]:
    """Ways to read files of a kind as RGB."""
    ways: dict[str, Callable] = {WHOLE: decode_image}
    if "torchvision" in packages:
        io_ = importlib.import_module("torchvision.io")
        rgb = io_.ImageReadMode.RGB

        def by_torchvision(file: bytes) -> np.ndarray:
            return io_.decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8), rgb).permute(1, 2, 0).numpy()

        ways["torchvision"] = by_torchvision
    if cv2 := packages.get("cv2"):
        ways["OpenCV"] = lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    if (simplejpeg := packages.get("simplejpeg")) and kind == "JPEG":
        ways["simplejpeg"] = lambda file: simplejpeg.decode_jpeg(file)
    if codecs := packages.get("imagecodecs"):
        ways["imagecodecs"] = codecs.jpeg8_decode if kind == "JPEG" else codecs.spng_decode
    return ways


def tables(results: dict) -> str:
    """Ways to write, of both sets, and ways to read."""
    sets = results["sets"]
    head = [f"{name}: {unit}" for name in sets for unit in ("ms", "of the default's", "bytes")]
    lines = [f"| written as | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for way in next(iter(sets.values()))["write"]:
        cells = [
            cell
            for facts in sets.values()
            for cell in (
                f"{facts['write'][way]['ms']:.3g}",
                f"{facts['write'][way]['over']:.2f}",
                f"{facts['write'][way]['bytes']:,}",
            )
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    head = [f"{name}: {unit}" for name in sets for unit in ("ms", "other pixels")]
    lines += ["", f"| read by | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for kind in ("PNG", "JPEG"):
        for way in next(iter(sets.values()))[f"read {kind}"]:
            cells = []
            for facts in sets.values():
                one = facts[f"read {kind}"][way]
                differ = f"{one['differ']} of {facts['images']}" if way != WHOLE else "–"
                cells += [f"{one['ms']:.3g}", differ]
            shown = "raypurify, by Pillow" if way == WHOLE else way
            lines.append(f"| {kind}, {shown} | {' | '.join(cells)} |")
    counts = " and ".join(f"{facts['images']} of {name}" for name, facts in sets.items())
    versions = ", ".join(f"{name} {version}".strip() for name, version in results["versions"].items() if version)
    missing = f" Not installed: {', '.join(results['missing'])}." if results["missing"] else ""
    lines += ["", f"n = {counts} images, on {results['machine']['cpu']}, one core; {versions}.{missing}"]
    return "\n".join(lines)


# Milliseconds of a GPU for an image of 224²: what an H100 took for sparse coding, and what it could come to.
GPU_MS = (7.0, 1.5, 0.5)
IMAGENET = 1_281_167


def cores(results: dict) -> str:
    """What images of 224² ask of the cores beside a GPU that purifies one in so many milliseconds."""
    facts = results["sets"]["224²"]
    heads = [f"cores, {kind} in, PNG `{way}` out" for kind in ("JPEG", "PNG") for way in ("small", "fast")]
    lines = [f"| a GPU's ms an image | images/s | ImageNet-1k train | {' | '.join(heads)} |"]
    lines.append("|---" * (3 + len(heads)) + "|")
    for gpu in GPU_MS:
        each = []
        for kind in ("JPEG", "PNG"):
            for way in (SMALL, FAST):
                ms = facts[f"read {kind}"][WHOLE]["ms"] + facts["floats"] + facts["write"][way]["ms"]
                each.append(f"{ms / gpu:.1f}")
        hours = IMAGENET * gpu / 3.6e6
        lines.append(f"| {gpu:g} | {1e3 / gpu:,.0f} | {hours:.2g} h | {' | '.join(each)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
