"""Generation beside transformers on PyTorch: `extract answers` on the first questions of some rows, greedy, float32, the CPU.

  python tests/peers/bench_answers.py --processor DIR --data FILE --image-root DIR [--millions 100] [--rows 16] [--tokens 64]

DIR is any Qwen2-VL checkout, as for bench_extract.py; weights are random, so that nearly all answers run to the limit. PyTorch runs
batches of like length, padded on the left, under the same budget of tokens. Both sides load the model and the images, each in a
process of its own, one after the other; only the ratio means anything. Needs the gguf package beside torch and transformers.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from bench_extract import arguments, batches_of, images_of, make_teacher, messages
from peer import ROOT, program

sys.path.insert(0, str(ROOT / "tests/fixtures"))


def torch_side(teacher, data, image_root, tokens, threads):
    """Runs in a process of its own; prints one JSON object."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(threads)
    start = time.perf_counter()
    processor = AutoProcessor.from_pretrained(teacher)
    processor.tokenizer.padding_side = "left"
    model = AutoModelForImageTextToText.from_pretrained(teacher, dtype=torch.float32).eval()
    prompts, generated = [], 0
    for row in json.loads(pathlib.Path(data).read_text()):
        images = images_of(row, image_root)
        text = processor.apply_chat_template(messages(row)[:-1], tokenize=False, add_generation_prompt=True)
        prompts.append((len(processor(text=[text], images=images or None)["input_ids"][0]), text, images))
    for batch in batches_of(prompts, lambda prompt: prompt[0] + tokens):
        images = [image for _, _, images in batch for image in images]
        inputs = processor(text=[text for _, text, _ in batch], images=images or None, padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        new = out[:, inputs["input_ids"].shape[1]:]
        generated += int((new != processor.tokenizer.pad_token_id).sum())
    seconds = time.perf_counter() - start
    print(json.dumps({"generated_tokens": generated, "seconds": seconds,
                      "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def main():
    parser = arguments(__doc__, rows=16)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch-side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_side:
        return torch_side(args.torch_side, args.data, args.image_root, args.tokens, args.threads)

    from gguf import GGMLQuantizationType
    from make_gguf import write
    from transformers import AutoModelForImageTextToText

    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        teacher, data = folder / "teacher", folder / "data.json"
        count = make_teacher(args.processor, teacher, args.millions)
        rows = [row for row in json.loads(pathlib.Path(args.data).read_text()) if len(row["conversations"]) == 2]
        rows = rows[:: max(1, len(rows) // args.rows)][: args.rows]
        data.write_text(json.dumps(rows))
        print(f"{count / 1e6:.0f} M parameters, {args.rows} questions, {args.tokens} tokens an answer, {args.threads} threads")

        def ours(name, *more):
            return program("extract", "release", "answers", "--device", "cpu", "--teacher", teacher, "--data", data,
                           "--image-root", args.image_root, "--out", folder / f"{name}.jsonl", "--tries", 1, "--sample", "never",
                           "--max-new-tokens", args.tokens, *more)

        command = [sys.executable, __file__, "--torch-side", teacher, "--processor", args.processor, "--data", data, "--image-root",
                   args.image_root, "--tokens", args.tokens, "--threads", args.threads]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
        sides = {"PyTorch": json.loads(done.stdout.splitlines()[-1]), "ours": ours("float")}
        layers = AutoModelForImageTextToText.from_pretrained(teacher).model.language_model.layers
        for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K):
            path = folder / f"{kind.name}.gguf"
            write(layers, path, "qwen2vl", is_paired=False, kind=kind)
            sides[f"ours, {kind.name}"] = ours(kind.name, "--gguf", path)
    rate = lambda side: side["generated_tokens"] / side["seconds"]
    peer = sides["PyTorch"]
    for name, side in sides.items():
        print(f"{name:12}  {rate(side):7.1f} tokens/s   peak {side['peak_rss_bytes'] / 2**20:6.0f} MiB   "
              f"speed {rate(side) / rate(peer):.2f}   memory {side['peak_rss_bytes'] / peer['peak_rss_bytes']:.2f}   "
              f"({side['generated_tokens']} tokens)")


if __name__ == "__main__":
    main()
