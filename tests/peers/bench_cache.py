"""The cache beside its peers, on features of the toy's trained teacher; the table of docs/benchmarks.md.

    python tests/peers/bench_cache.py [--out DIR]        needs torch and pyarrow, and the programs: `make build`

`extract run` makes a cache of each codec, all tokens, bf16. Each side reads the same samples in the same random order, one thread.
Rates are gigabytes of raw bf16 features per second; ratios within one run are what counts.
"""

import argparse
import glob
import json
import os
import pathlib
import random
import subprocess
import time

import numpy as np
import pyarrow.parquet as pq
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSES = 5


def program(name, *args):
    text = subprocess.run([ROOT / "target/release" / name, *map(str, args)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(text) if text.lstrip().startswith("{") else text


def shards(cache):
    return sorted(glob.glob(f"{cache}/data/*.parquet"))


def features(cache):
    """Per sample the bits of its bf16 features, (positions, width), and the bytes of the column on disk."""
    samples, stored = [], 0
    for shard in shards(cache):
        file = pq.ParquetFile(shard)
        leaf = file.metadata.num_columns - 1
        stored += sum(file.metadata.row_group(g).column(leaf).total_compressed_size for g in range(file.metadata.num_row_groups))
        for batch in file.iter_batches(batch_size=64, columns=["features"]):
            for row in batch.column(0):
                wide = row.values.flatten().to_numpy().reshape(len(row), -1)
                samples.append((wide.view("<u4") >> 16).astype("<u2"))
    return samples, stored


def bound(samples):
    """Raw bytes over the order-0 entropy of both byte planes."""
    flat = np.concatenate([sample.reshape(-1) for sample in samples])
    bits = 0.0
    for plane in (flat & 0xFF, flat >> 8):
        share = np.bincount(plane, minlength=256) / flat.size
        share = share[share > 0]
        bits -= (share * np.log2(share)).sum()
    return 16 / bits


def best(run):
    """The fastest of some passes, in seconds."""
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def drop(paths):
    """Out of the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(paths):
    """Bytes per second of the disk, read from one end to the other."""
    drop(paths)
    start, total = time.perf_counter(), 0
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(4 << 20):
                total += len(block)
    return total / (time.perf_counter() - start)


def per_sample_torch(samples, order, folder):
    """As SpecForge keeps features: a `torch.save` for each sample."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [torch.from_numpy(sample.view(np.int16)).view(torch.bfloat16) for sample in samples]
    paths = [folder / f"{n}.pt" for n in range(len(tensors))]

    def write():
        for tensor, path in zip(tensors, paths):
            torch.save(tensor, path)

    def read():
        for n in order:
            torch.load(paths[n])

    rates = {"torch_save_write": best(write), "torch_load_warm": best(read)}
    drop(paths)
    start = time.perf_counter()
    read()
    return rates | {"torch_load_cold": time.perf_counter() - start}


def pyarrow_rows(cache, order):
    """One sample at a time from our own files. pyarrow's smallest unit is a row group, so a few samples say enough."""
    places = [
        (file, group, row)
        for file in map(pq.ParquetFile, shards(cache))
        for group in range(file.metadata.num_row_groups)
        for row in range(file.metadata.row_group(group).num_rows)
    ]
    some = order[:16]

    def read():
        for n in some:
            file, group, row = places[n]
            file.read_row_group(group, columns=["features"], use_threads=False).column(0)[row].values.flatten().to_numpy()

    return some, best(read)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/bench_cache")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    world = out / "world"
    if not world.exists():
        program("toy", "world", "--out", world, "demo")
    caches = {}
    for codec in ("lossless", "int8", "none"):
        caches[codec] = out / codec
        program(
            "extract", "run", "--teacher", ROOT / "datasets/toy/teacher", "--data", world / "demo.json", "--image-root", world,
            "--features", "all", "--dtype", "bf16", "--device", "cpu", "--codec", codec, "--out", caches[codec], "--json",
        )
    samples, stored = features(caches["lossless"])
    raw = sum(sample.nbytes for sample in samples)
    order = list(range(len(samples)))
    random.Random(1).shuffle(order)
    limit = bound(samples)
    found = {"samples": len(samples), "raw_bytes": raw, "mean_sample_bytes": raw / len(samples)}
    found |= {"lossless_ratio": raw / stored, "entropy_bound": limit, "share_of_bound": raw / stored / limit}
    found["int8_ratio"] = raw / features(caches["int8"])[1]
    found["int8_error"] = json.loads((caches["int8"] / "manifest.json").read_text())["lossy_error"]
    for codec, cache in caches.items():
        found[f"ours_{codec}"] = program("bench_cache", cache, "warm")
    found["ours_plain"] = program("bench_cache", caches["lossless"], "warm", "plain")
    for access in ("map", "plain"):
        drop(shards(caches["lossless"]))
        found[f"ours_cold_{access}"] = program("bench_cache", caches["lossless"], "cold", access)["cold"]
    found["disk_sequential"] = disk_rate(shards(caches["lossless"])) / 1e9
    found |= {name: raw / seconds / 1e9 for name, seconds in per_sample_torch(samples, order, out / "torch").items()}
    some, seconds = pyarrow_rows(caches["lossless"], order)
    found["pyarrow_warm"] = sum(samples[n].nbytes for n in some) / seconds / 1e9
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
