"""The cache beside its peers, on features of a trained teacher; the table of docs/benchmarks.md.

    python tests/peers/bench_cache.py [--teacher CHECKOUT --data FILE] [--out DIR] [--venv]

needs torch and pyarrow, and the programs: `make build`. The teacher is the toy's unless one is given; `train_lm.py` makes a wider
one. `extract run` makes a cache of each codec, all tokens, bf16; `resize_cache` makes caches of the same features whose samples
all have one size. --venv installs Lance and MDS into a virtual environment below DIR and reads the same samples from them.

Rates are gigabytes of raw bf16 features per second. Warm rates are of one thread and of processor time, so that they mean
something beside other work; cold ones are of time on the wall. Ratios within one run are what counts.
"""

import argparse
import glob
import json
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import torch

from page_cache import drop

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSES = 5
SIZES = [50_000, 500_000, 5_000_000, 50_000_000]
# Long samples want more of them: a cold read of a tenth of a second says how it begins and not how it goes on.
TOTAL, LONG_TOTAL, LONG = 200_000_000, 1_000_000_000, 5_000_000
SHARD = 256 << 20


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
    """Bits a value: the order-0 entropy of both byte planes."""
    flat = np.concatenate([sample.reshape(-1) for sample in samples])
    bits = 0.0
    for plane in (flat & 0xFF, flat >> 8):
        share = np.bincount(plane, minlength=256) / flat.size
        share = share[share > 0]
        bits -= (share * np.log2(share)).sum()
    return bits


def best(run, passes=PASSES):
    """The fastest of some passes, in seconds of processor time."""
    seconds = []
    for _ in range(passes):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def disk_rate(paths):
    """Gigabytes per second of the disk, read from one end to the other."""
    drop(paths)
    start, total = time.perf_counter(), 0
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(4 << 20):
                total += len(block)
    return total / (time.perf_counter() - start) / 1e9


def per_sample_torch(samples, order, folder):
    """As SpecForge keeps features: a `torch.save` for each sample. Rates of writing, reading warm and reading cold."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [torch.from_numpy(sample.view(np.int16)).view(torch.bfloat16) for sample in samples]
    paths = [folder / f"{n}.pt" for n in range(len(tensors))]

    def write():
        for tensor, path in zip(tensors, paths):
            torch.save(tensor, path)

    def read():
        for n in order:
            torch.load(paths[n])

    seconds = {"torch_save": best(write, 3), "torch_warm": best(read)}
    drop(paths)
    start = time.perf_counter()
    read()
    seconds["torch_cold"] = time.perf_counter() - start
    for path in paths:
        path.unlink()
    return seconds


def pyarrow_rows(cache, order):
    """One sample at a time from our own files. pyarrow's smallest unit is a row group, so a few samples say enough."""
    places = [
        (file, group, row)
        for file in map(pq.ParquetFile, shards(cache))
        for group in range(file.metadata.num_row_groups)
        for row in range(file.metadata.row_group(group).num_rows)
    ]
    some = order[:3]

    def read():
        for n in some:
            file, group, row = places[n]
            file.read_row_group(group, columns=["features"], use_threads=False).column(0)[row].values.flatten().to_numpy()

    return some, best(read, 1)


def venv_of(folder):
    """The Python of a virtual environment with Lance and MDS, which takes torch, pyarrow and numpy from this one."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        packages = subprocess.run([python, "-c", where], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        (pathlib.Path(packages) / "caller.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
        # MDS asks for the clients of every cloud; what it takes to read a local folder is named here.
        for names in (["pylance"], ["--no-deps", "mosaicml-streaming"], ["brotli", "catalogue", "python-snappy", "xxhash", "zstd"]):
            subprocess.run([python, "-m", "pip", "install", "-q", *names], check=True)
    return python


def sized(caches, out, python):
    """Everything that depends on a sample's size."""
    table = {}
    for size in SIZES:
        cache = out / f"size-{size}"
        if not cache.exists():
            program("resize_cache", caches["lossless"], cache, "lossless", size, LONG_TOTAL if size >= LONG else TOTAL, SHARD)
        found = program("bench_cache", cache, "warm")
        drop(shards(cache))
        found["cold"] = program("bench_cache", cache, "cold")["cold"]
        found["disk"] = disk_rate(shards(cache))
        samples, _ = features(cache)
        order = list(range(len(samples)))
        random.Random(1).shuffle(order)
        raw = found["raw_bytes"]
        found |= {name: raw / seconds / 1e9 for name, seconds in per_sample_torch(samples, order, out / "torch").items()}
        some, seconds = pyarrow_rows(cache, order)
        found["pyarrow_warm"] = sum(samples[n].nbytes for n in some) / seconds / 1e9
        if python:
            peers = subprocess.run(
                [python, pathlib.Path(__file__).with_name("cache_peers.py"), cache, out / "peers"],
                check=True, stdout=subprocess.PIPE, text=True,
            )
            found |= json.loads(peers.stdout)
        table[size] = found
        print(size, json.dumps(found), file=sys.stderr)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=pathlib.Path, default=ROOT / "datasets/toy/teacher")
    parser.add_argument("--data", type=pathlib.Path, help="of the teacher; the toy's if none is given")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/bench_cache")
    parser.add_argument("--venv", action="store_true", help="also Lance and MDS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out, data = args.out, args.data
    if data is None:
        world = out / "world"
        if not world.exists():
            program("toy", "world", "--out", world, "demo")
        data = world / "demo.json"
    caches = {}
    for codec in ("lossless", "int8", "none"):
        caches[codec] = out / codec
        program(
            "extract", "run", "--teacher", args.teacher, "--data", data, "--image-root", data.parent, "--features", "all",
            "--dtype", "bf16", "--device", "cpu", "--codec", codec, "--out", caches[codec], "--json",
        )
    samples, stored = features(caches["lossless"])
    values = sum(sample.size for sample in samples)
    limit, bits = bound(samples), 8 * stored / values
    found = {"samples": len(samples), "width": samples[0].shape[1], "raw_bytes": 2 * values}
    found |= {"lossless_ratio": 16 / bits, "bits": bits, "bound_bits": limit, "share_of_bound": limit / bits}
    found["int8_ratio"] = 2 * values / features(caches["int8"])[1]
    found["int8_error"] = json.loads((caches["int8"] / "manifest.json").read_text())["lossy_error"]
    for codec, cache in caches.items():
        found[f"ours_{codec}"] = program("bench_cache", cache, "warm")
    found["ours_plain"] = program("bench_cache", caches["lossless"], "warm", "plain")
    found["open"] = program("bench_cache", caches["lossless"], "open")
    found["encode"] = program("bench_cache", caches["lossless"], "encode")
    thousand = out / "thousand"
    if not thousand.exists():
        program("resize_cache", caches["lossless"], thousand, "lossless", 10_000, 65_000_000, 40_000)
    found["open_many"] = program("bench_cache", thousand, "open")
    wide = out / "wide"
    if not wide.exists():
        program("resize_cache", caches["lossless"], wide, "lossless", 5_000_000, TOTAL, SHARD, 2048)
    found["width_2048"] = program("bench_cache", wide, "warm")
    found["sizes"] = sized(caches, out, venv_of(out / "venv") if args.venv else None)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
