"""Extraction beside transformers on PyTorch: the same rows, the same Qwen2-VL of random weights, the CPU.

Both sides read and process the images and run the model to its last layer in float32, in batches sorted by length
under one token budget; ours also writes the cache. Each runs in a process of its own, one after the other, so that peak
memory can be told. Only the ratio means anything.

  python tests/peers/bench_extract.py --processor DIR --data FILE --image-root DIR [--millions 100] [--rows 64] [--threads 2] [--build release]

DIR is any Qwen2-VL checkout: its tokenizer, template and image settings are taken, its weights are not.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH_TOKENS = 4096


# Sizes of the teacher, by about how many millions of parameters it has.
SIZES = {
    100: ({"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
          {"depth": 8, "embed_dim": 512, "num_heads": 8, "mlp_ratio": 4, "hidden_size": 768}),
    500: ({"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16},
          {"depth": 16, "embed_dim": 1024, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1024}),
}


def make_teacher(processor, folder, millions=100):
    """A checkout with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(processor, folder, ignore=shutil.ignore_patterns("*.safetensors*", "ref", "v5", "sharded*"))
    config = json.loads((folder / "config.json").read_text())
    text, vision = SIZES[millions]
    config |= text | {"num_key_value_heads": 4, "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}}
    config["vision_config"] |= vision
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    count = sum(weight.numel() for weight in model.parameters())
    from safetensors.torch import save_file

    def hub_name(name):
        name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        return name

    tensors = {hub_name(n): w.detach().contiguous() for n, w in model.named_parameters() if n != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return count


def torch_side(teacher, data, image_root, threads):
    """Runs in a process of its own; prints one JSON object."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(threads)
    processor = AutoProcessor.from_pretrained(teacher)
    processor.tokenizer.padding_side = "right"
    model = AutoModelForImageTextToText.from_pretrained(teacher, dtype=torch.float32).eval()
    start, model_seconds, tokens, operations = time.perf_counter(), 0.0, 0, 0

    def messages(row):
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

    rows = json.loads(pathlib.Path(data).read_text())
    prompts = []
    for row in rows:
        paths = row.get("images") or row.get("image") or []
        paths = [paths] if isinstance(paths, str) else paths
        images = [Image.open(pathlib.Path(image_root, path)).convert("RGB") for path in paths]
        text = processor.apply_chat_template(messages(row), tokenize=False)
        length = processor(text=[text], images=images or None)["input_ids"][0]
        prompts.append((len(length), text, images))
    prompts.sort(key=lambda prompt: prompt[0])
    batches, batch = [], []
    for prompt in prompts:
        if batch and prompt[0] * (len(batch) + 1) > BATCH_TOKENS:
            batches.append(batch)
            batch = []
        batch.append(prompt)
    batches.append(batch)
    with torch.inference_mode():
        for batch in batches:
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


def run(command, **environment):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processor", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-root", required=True)
    parser.add_argument("--millions", type=int, choices=SIZES, default=100)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--build", default="release")
    parser.add_argument("--torch-side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_side:
        return torch_side(args.torch_side, args.data, args.image_root, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        teacher, data = pathlib.Path(folder, "teacher"), pathlib.Path(folder, "data.json")
        count = make_teacher(args.processor, teacher, args.millions)
        rows = json.loads(pathlib.Path(args.data).read_text())
        data.write_text(json.dumps(rows[:: max(1, len(rows) // args.rows)][: args.rows]))
        print(f"{count / 1e6:.0f} M parameters, {args.rows} rows, {args.threads} threads")
        ours = run([str(ROOT / "target" / args.build / "extract"), "run", "--teacher", str(teacher), "--data", str(data),
                    "--image-root", args.image_root, "--out", f"{folder}/cache", "--dtype", "f32", "--json",
                    "--max-tokens-per-batch", str(BATCH_TOKENS)], RAYON_NUM_THREADS=str(args.threads))
        peer = run([sys.executable, __file__, "--torch-side", str(teacher), "--processor", args.processor, "--data",
                    str(data), "--image-root", args.image_root, "--threads", str(args.threads)])
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
