"""Other readers open our caches and see the values that our own reader sees: python cache.py [FIXTURE]

FIXTURE holds caches of each dtype and codec and, for each, `<cache>.expected`: all features as our reader returned them,
float32, in file order. Each reader's features must equal them bit for bit, NaN included. Readers that are not installed are skipped,
and named. pyarrow also verifies the page checksums, and must refuse a flipped bit.
"""
import glob
import importlib.util
import os
import sys

import numpy as np


def bits(table):
    """All floats of an Arrow table's column `features`, as bit patterns."""
    values = [chunk.flatten().flatten().to_numpy(zero_copy_only=False) for chunk in table["features"].chunks]
    return np.concatenate([np.asarray(v, "<f4") for v in values]).view("<u4")


def with_pyarrow(files):
    import pyarrow as pa
    import pyarrow.parquet as pq

    return bits(pa.concat_tables(pq.read_table(f, page_checksum_verification=True) for f in files))


def with_duckdb(files):
    import duckdb

    return bits(duckdb.sql(f"select features from read_parquet({files!r})").to_arrow_table())


def with_polars(files):
    import polars

    return bits(polars.read_parquet(files).to_arrow())


def with_datasets(files):
    import datasets

    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=os.environ.get("HF_HOME"))
    return bits(table.with_format("arrow")[:])


def refuses_a_flipped_bit(path):
    """pyarrow finds damage in the last feature page through our checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    last = metadata.row_group(metadata.num_row_groups - 1).column(metadata.num_columns - 1)
    data = bytearray(open(path, "rb").read())
    data[last.data_page_offset + last.total_compressed_size - 3] ^= 16
    try:
        pq.read_table(pa.BufferReader(bytes(data)), page_checksum_verification=True)
    except OSError as error:
        return "CRC" in str(error)
    return False


def as_the_viewer_does(cache):
    """The folder alone, with the card's header saying which files are data: the samples, without the quarantined rows."""
    import json

    import datasets

    loaded = datasets.load_dataset(cache, cache_dir=os.environ.get("HF_HOME"))
    totals = json.load(open(f"{cache}/manifest.json"))["totals"]
    rows = sum(len(row["features"]) for row in loaded["train"])
    return list(loaded) == ["train"] and (len(loaded["train"]), rows) == (totals["samples"], totals["feature_rows"])


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    fixture = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../fixtures/cache_v1")
    readers = {"pyarrow": with_pyarrow, "duckdb": with_duckdb, "polars": with_polars, "datasets": with_datasets}
    caches = sorted(os.path.basename(path)[: -len(".expected")] for path in glob.glob(f"{fixture}/*.expected"))
    failed = False
    for name, read in readers.items():
        if importlib.util.find_spec(name) is None or importlib.util.find_spec("pyarrow") is None:
            print(f"skipped: {name} is not installed")
            continue
        for cache in caches:
            files = sorted(glob.glob(f"{fixture}/{cache}/data/*.parquet"))
            expected = np.fromfile(f"{fixture}/{cache}.expected", "<u4")
            found = read(files)
            # A reader may quieten a signalling NaN (bit 22); everything else must be the same bits.
            nan = np.isnan(expected.view("<f4"))
            same = found.size == expected.size and bool((np.where(nan, found | 0x400000, found) == np.where(nan, expected | 0x400000, expected)).all())
            exact = found.size == expected.size and bool((found == expected).all())
            failed |= not same
            print(f"{name:9} {cache:9} {expected.size} values {'equal bit for bit' if exact else 'equal but for quiet NaN' if same else 'DIFFER'}")
    if importlib.util.find_spec("pyarrow"):
        found = refuses_a_flipped_bit(sorted(glob.glob(f"{fixture}/f32/data/*.parquet"))[-1])
        failed |= not found
        print(f"pyarrow   {'refuses' if found else 'DOES NOT REFUSE'} a page with a flipped bit")
    if importlib.util.find_spec("datasets"):
        found = as_the_viewer_does(f"{fixture}/bf16")
        failed |= not found
        print(f"datasets  {'finds' if found else 'DOES NOT FIND'} the samples through the card")
    sys.exit(failed)


main()
