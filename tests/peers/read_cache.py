"""Read a cache with pyarrow and numpy alone, and rebuild the teacher's logits: python read_cache.py CACHE"""
import glob
import json
import struct
import sys

import numpy as np
import pyarrow.parquet as pq

cache = sys.argv[1]

# The teacher's head. A safetensors file is a length, a JSON header and the bytes.
with open(f"{cache}/head.safetensors", "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["lm_head.weight"]
    begin, end = header["data_offsets"]
    raw = np.frombuffer(file.read()[begin:end], {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[header["dtype"]])
if header["dtype"] == "BF16":  # the upper half of a float32
    raw = (raw.astype("<u4") << 16).view("<f4")
head = raw.astype("<f4").reshape(header["shape"])  # (vocabulary, width)

agree = total = 0
for shard in sorted(glob.glob(f"{cache}/data/*.parquet")):
    file = pq.ParquetFile(shard, page_checksum_verification=True)
    for batch in file.iter_batches(batch_size=16, columns=["key", "positions", "input_ids", "features"]):
        for key, positions, ids, features in zip(*batch.columns):
            z = features.values.flatten().to_numpy().reshape(len(features), -1)  # (positions, width)
            logits = z @ head.T  # row i predicts the token after positions[i]
            after = positions.values.to_numpy() + 1
            known = after < len(ids)
            ids = ids.values.to_numpy()
            agree += int((logits.argmax(1)[known] == ids[after[known]]).sum())
            total += int(known.sum())
print(f"{total} positions; the teacher's first choice is the cached next token at {agree / max(total, 1):.1%}")
