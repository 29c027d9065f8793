"""A teacher with quantised matrices beside the float one: memory, speed and how far its features are off.

  python tests/peers/bench_gguf.py --processor DIR --data FILE --image-root DIR [--millions 500] [--rows 12]

DIR is any Qwen2-VL checkout, as for bench_extract.py. Weights are random, so the error says what rounding does to features of
that shape and nothing about a trained model. Needs the gguf package beside torch and transformers.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from bench_extract import ROOT, SIZES, make_teacher, run

sys.path.insert(0, str(ROOT / "tests/fixtures"))


def extract(teacher, data, image_root, folder, name, *more):
    command = [str(ROOT / "target/release/extract"), "run", "--teacher", str(teacher), "--data", str(data), "--image-root",
               image_root, "--out", f"{folder}/{name}", "--dtype", "f32", "--json", *more]
    summary = run(command, RAYON_NUM_THREADS="2")
    # The error is measured before a new cache is made; a run that continues it shows what extraction alone takes.
    return summary, json.loads(pathlib.Path(folder, name, "manifest.json").read_text())["about"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processor", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-root", required=True)
    parser.add_argument("--millions", type=int, choices=SIZES, default=500)
    parser.add_argument("--rows", type=int, default=12)
    args = parser.parse_args()

    from gguf import GGMLQuantizationType
    from make_gguf import write
    from transformers import AutoModelForImageTextToText

    with tempfile.TemporaryDirectory() as folder:
        teacher, some, data = (pathlib.Path(folder, name) for name in ("teacher", "some.json", "data.json"))
        count = make_teacher(args.processor, teacher, args.millions)
        rows = json.loads(pathlib.Path(args.data).read_text())
        rows = rows[:: max(1, len(rows) // args.rows)][: args.rows]
        some.write_text(json.dumps(rows[:1]))
        data.write_text(json.dumps(rows))
        layers = AutoModelForImageTextToText.from_pretrained(teacher).model.language_model.layers
        print(f"{count / 1e6:.0f} M parameters, {sum(w.numel() for w in layers.parameters()) / 1e6:.0f} M of them in matrices of the decoder")
        float_side, _ = extract(teacher, data, args.image_root, folder, "float")
        print(f"float32  peak {float_side['peak_rss_bytes'] / 2**20:6.0f} MiB")
        for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K):
            path = pathlib.Path(folder, f"{kind.name}.gguf")
            write(layers, path, "qwen2vl", is_paired=False, kind=kind)
            gguf = ("--gguf", str(path))
            extract(teacher, some, args.image_root, folder, kind.name, *gguf)
            summary, about = extract(teacher, data, args.image_root, folder, kind.name, *gguf)
            print(f"{kind.name:7}  peak {summary['peak_rss_bytes'] / 2**20:6.0f} MiB  "
                  f"memory {summary['peak_rss_bytes'] / float_side['peak_rss_bytes']:.2f}  "
                  f"speed {summary['tokens_per_second'] / float_side['tokens_per_second']:.2f}  "
                  f"relative L2 {about['gguf_relative_l2']}; {about['gguf_through_head']}")


if __name__ == "__main__":
    main()
