"""Extraction beside transformers on PyTorch: the same rows, the same Qwen2-VL of random weights, the CPU.

Both sides read and process the images and run the model to its last layer in float32, in batches sorted by length
under one token budget; ours also writes the cache. Each runs in a process of its own, one after the other, so that peak
memory can be told. Only the ratio means anything.

  python tests/peers/bench_extract.py --processor DIR --data FILE --image-root DIR [--millions 100] [--rows 64] [--threads 2]

DIR is any Qwen2-VL checkout: its tokenizer, template and image settings are taken, its weights are not.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from PIL import Image
from sized import extract, make_checkout

BATCH_TOKENS = 4096
# Sizes of the teacher, by about how many millions of parameters it has: width, blocks, feed-forward; vision encoder.
SIZES = {100: (768, 12, 2048, (8, 512)), 500: (1024, 24, 2816, (16, 1024))}


def make_teacher(processor, folder, millions=100):
    """A checkout of that size; its parameters."""
    width, layers, ffn, vision = SIZES[millions]
    return make_checkout(processor, folder, width, layers, vision=vision, intermediate_size=ffn, num_key_value_heads=4,
                         tie_word_embeddings=True)


def messages(row):
    """A row of LLaVA JSON as chat templates take it."""
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    result = []
    for turn in row["conversations"]:
        pieces = turn["value"].split("<image>")
        content = []
        for index, piece in enumerate(pieces):
            # One newline on either side of a placeholder belongs to it.
            piece = piece.removeprefix("\n") if index > 0 else piece
            piece = piece.removesuffix("\n") if index + 1 < len(pieces) else piece
            content += [{"type": "image"}] * (index > 0) + [{"type": "text", "text": piece}] * bool(piece)
        result.append({"role": names[turn["from"]], "content": content})
    return result


def images_of(row, image_root):
    """Its images, decoded."""
    paths = row.get("images") or row.get("image") or []
    paths = [paths] if isinstance(paths, str) else paths
    return [Image.open(pathlib.Path(image_root, path)).convert("RGB") for path in paths]


def batches_of(prompts, length):
    """Prompts sorted by length, cut where padding to the longest would pass the budget of tokens."""
    batches, batch = [], []
    for prompt in sorted(prompts, key=length):
        if batch and length(prompt) * (len(batch) + 1) > BATCH_TOKENS:
            batches.append(batch)
            batch = []
        batch.append(prompt)
    return [*batches, batch]


def torch_side(teacher, data, image_root, threads):
    """Runs in a process of its own; prints one JSON object."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(threads)
    processor = AutoProcessor.from_pretrained(teacher)
    processor.tokenizer.padding_side = "right"
    model = AutoModelForImageTextToText.from_pretrained(teacher, dtype=torch.float32).eval()
    start, model_seconds, tokens, operations = time.perf_counter(), 0.0, 0, 0

    rows = json.loads(pathlib.Path(data).read_text())
    prompts = []
    for row in rows:
        images = images_of(row, image_root)
        text = processor.apply_chat_template(messages(row), tokenize=False)
        length = processor(text=[text], images=images or None)["input_ids"][0]
        prompts.append((len(length), text, images))
    with torch.inference_mode():
        for batch in batches_of(prompts, lambda prompt: prompt[0]):
            images = [image for _, _, images in batch for image in images]
            inputs = processor(text=[text for _, text, _ in batch], images=images or None, padding=True,
                               return_tensors="pt")
            before = time.perf_counter()
            model.model(**inputs).last_hidden_state
            model_seconds += time.perf_counter() - before
            tokens += int(inputs["attention_mask"].sum())
            operations += count_operations(model.model, inputs)
    seconds = time.perf_counter() - start
    print(json.dumps({"tokens": tokens, "tokens_per_second": tokens / seconds,
                      "model_tokens_per_second": tokens / model_seconds, "operations": operations,
                      "matrix_rate": matrix_rate(),
                      "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def count_operations(model, inputs):
    """Multiplications and additions of the matrix products that these samples need, padding apart."""
    import torch

    def weights(module):
        layers = (layer for layer in module.modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv3d)))
        return sum(layer.weight.numel() for layer in layers)

    text, vision = model.config.text_config, model.config.vision_config
    patches = inputs["image_grid_thw"].prod(-1) if "image_grid_thw" in inputs else torch.zeros(0, dtype=torch.long)
    lengths = inputs["attention_mask"].sum(-1)
    merged = vision.spatial_merge_size ** 2
    products = lengths.sum() * weights(model.language_model.layers)
    products += patches.sum() * (weights(model.visual.blocks) + weights(model.visual.patch_embed))
    products += patches.sum() // merged * weights(model.visual.merger)
    # Scores and weighted sums: all pairs in an image, half of them in a causal text.
    products += (lengths**2).sum() * text.num_hidden_layers * text.hidden_size
    products += (patches**2).sum() * 2 * vision.depth * vision.embed_dim
    return 2 * int(products)


def matrix_rate():
    """Operations per second of the machine's best large matrix product, with the threads that PyTorch has."""
    import torch

    a, b = torch.rand(4096, 2048), torch.rand(2048, 2048)
    best = float("inf")
    for _ in range(10):
        before = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - before)
    return 2 * 4096 * 2048 * 2048 / best


def arguments(description, rows, millions=100):
    """What the benchmarks of a teacher's size are asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processor", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-root", required=True)
    parser.add_argument("--millions", type=int, choices=SIZES, default=millions)
    parser.add_argument("--rows", type=int, default=rows)
    return parser


def main():
    parser = arguments(__doc__, rows=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch-side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_side:
        return torch_side(args.torch_side, args.data, args.image_root, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        teacher, data = pathlib.Path(folder, "teacher"), pathlib.Path(folder, "data.json")
        count = make_teacher(args.processor, teacher, args.millions)
        rows = json.loads(pathlib.Path(args.data).read_text())
        rows = rows[:: max(1, len(rows) // args.rows)][: args.rows]
        data.write_text(json.dumps(rows))
        print(f"{count / 1e6:.0f} M parameters, {args.rows} rows, {args.threads} threads")
        ours = extract(teacher, rows, args.image_root, pathlib.Path(folder, "cache"), args.threads,
                       ("--dtype", "f32", "--max-tokens-per-batch", BATCH_TOKENS))
        command = [sys.executable, __file__, "--torch-side", str(teacher), "--processor", args.processor, "--data", str(data),
                   "--image-root", args.image_root, "--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peer = json.loads(done.stdout.splitlines()[-1])
        assert ours["tokens"] == peer["tokens"], f"ours ran {ours['tokens']} tokens, PyTorch {peer['tokens']}"
    speed = ours["tokens_per_second"]
    rates = {"ours": speed, "PyTorch": peer["tokens_per_second"]}
    limit = peer["matrix_rate"] / (peer["operations"] / peer["tokens"])
    print(f"ours            {speed:8.0f} tokens/s   peak {ours['peak_rss_bytes'] / 2**20:6.0f} MiB   images, model, writing")
    print(f"PyTorch         {peer['tokens_per_second']:8.0f} tokens/s   peak {peer['peak_rss_bytes'] / 2**20:6.0f} MiB   images, model")
    print(f"PyTorch         {peer['model_tokens_per_second']:8.0f} tokens/s   the model alone")
    print(f"ours / PyTorch  {speed / peer['tokens_per_second']:8.2f}            memory {ours['peak_rss_bytes'] / peer['peak_rss_bytes']:.2f}"
          f"   (model alone: {speed / peer['model_tokens_per_second']:.2f})")
    shares = ", ".join(f"{side} {rate / limit:.0%}" for side, rate in rates.items())
    print(f"roofline        {limit:8.0f} tokens/s   {peer['operations'] / 1e12:.2f} T operations at this machine's matrix rate of "
          f"{peer['matrix_rate'] / 1e9:.0f} G/s: {shares}")


if __name__ == "__main__":
    main()
