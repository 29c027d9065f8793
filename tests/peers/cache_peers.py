"""Lance and MDS on the samples of a cache: python cache_peers.py CACHE FOLDER, called by `bench_cache.py --venv`.

One JSON object: gigabytes of raw features per second of processor time, each sample read in random order, warm.
"""

import json
import pathlib
import random
import shutil
import sys

import numpy as np
import pyarrow as pa

from bench_cache import best, features


def lance_rate(samples, order, folder):
    import lance

    width = samples[0].shape[1]
    item = pa.list_(pa.list_(pa.uint16(), width))
    rows = [pa.FixedSizeListArray.from_arrays(pa.array(sample.reshape(-1)), width) for sample in samples]
    column = pa.ListArray.from_arrays(np.cumsum([0] + [len(row) for row in rows]).astype("<i4"), pa.concat_arrays(rows))
    dataset = lance.write_dataset(pa.table({"features": column.cast(item)}), str(folder), data_storage_version="2.1")

    def read():
        for n in order:
            dataset.take([n], columns=["features"]).column(0).chunk(0).flatten().flatten().to_numpy()

    return best(read)


def mds_rate(samples, order, folder):
    from streaming import LocalDataset, MDSWriter

    with MDSWriter(out=str(folder), columns={"features": "ndarray:uint16"}) as writer:
        for sample in samples:
            writer.write({"features": sample})
    dataset = LocalDataset(str(folder))

    def read():
        for n in order:
            dataset[n]["features"]

    return best(read)


def main():
    cache, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    samples, _ = features(cache)
    order = list(range(len(samples)))
    random.Random(1).shuffle(order)
    raw = sum(sample.nbytes for sample in samples)
    found = {}
    for name, rate in (("lance_warm", lance_rate), ("mds_warm", mds_rate)):
        shutil.rmtree(folder, ignore_errors=True)
        found[name] = raw / rate(samples, order, folder) / 1e9
    shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
