"""A teacher with quantised matrices beside the float one: memory, speed and how far its features are off.

  python tests/peers/bench_gguf.py --processor DIR --data FILE --image-root DIR [--millions 500] [--rows 12]

DIR is any Qwen2-VL checkout, as for bench_extract.py. Weights are random, so the error says what rounding does to features of
that shape and nothing about a trained model. Needs the gguf package beside torch and transformers.
"""

import json
import pathlib
import sys
import tempfile

from bench_extract import arguments, make_teacher
from peer import ROOT
from sized import extract

sys.path.insert(0, str(ROOT / "tests/fixtures"))


def main():
    parser = arguments(__doc__, rows=12, millions=500)
    args = parser.parse_args()

    from gguf import GGMLQuantizationType
    from make_gguf import write
    from transformers import AutoModelForImageTextToText

    with tempfile.TemporaryDirectory() as folder:
        teacher = pathlib.Path(folder, "teacher")
        count = make_teacher(args.processor, teacher, args.millions)
        rows = json.loads(pathlib.Path(args.data).read_text())
        rows = rows[:: max(1, len(rows) // args.rows)][: args.rows]
        layers = AutoModelForImageTextToText.from_pretrained(teacher).model.language_model.layers
        print(f"{count / 1e6:.0f} M parameters, {sum(w.numel() for w in layers.parameters()) / 1e6:.0f} M of them in matrices of the decoder")
        float_side = extract(teacher, rows, args.image_root, pathlib.Path(folder, "float"), 2, ("--dtype", "f32"))
        print(f"float32  peak {float_side['peak_rss_bytes'] / 2**20:6.0f} MiB")
        for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K):
            path = pathlib.Path(folder, f"{kind.name}.gguf")
            write(layers, path, "qwen2vl", is_paired=False, kind=kind)
            cache = pathlib.Path(folder, kind.name)
            side = lambda rows: extract(teacher, rows, args.image_root, cache, 2, ("--dtype", "f32", "--gguf", path))
            # The error is measured before a new cache is made; a run that continues it shows what extraction alone takes.
            side(rows[:1])
            summary, about = side(rows), json.loads((cache / "manifest.json").read_text())["about"]
            print(f"{kind.name:7}  peak {summary['peak_rss_bytes'] / 2**20:6.0f} MiB  "
                  f"memory {summary['peak_rss_bytes'] / float_side['peak_rss_bytes']:.2f}  "
                  f"speed {summary['tokens_per_second'] / float_side['tokens_per_second']:.2f}  "
                  f"relative L2 {about['gguf_relative_l2']}; {about['gguf_through_head']}")


if __name__ == "__main__":
    main()
