"""PyTorch beside `make gpu-bench`: extraction with transformers in the shapes that the parts before it left in FOLDER.

  python tests/gpu/torch_peer.py --device cuda:0 --folder FOLDER --images DIR

Batches sorted by length under one budget of tokens, sdpa, bfloat16 (float32 on a CPU), images processed ahead of the clock: the
model alone, without reading, processing or writing. Prints rows of the table; ends with 3 and a reason where there is no torch.
"""

import argparse
import json
import pathlib
import sys
import time

BATCH_TOKENS = 8192


def skip(reason):
    print(reason, file=sys.stderr)
    sys.exit(3)


def ours(folder, what):
    """The figure of a row that an earlier part left in the table; None where there is none."""
    table = folder / "table"
    for line in table.read_text().splitlines() if table.exists() else []:
        name, value, _ = line.split("\t")
        if name == what and value[:1].isdigit():
            return float(value.split()[0])
    return None


def batches_of(processor, rows, images):
    """What the model takes, in batches, and the tokens of each."""
    prompts = []
    for row in rows:
        question = row["conversations"][0]["value"].removeprefix("<image>\n")
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
                    {"role": "assistant", "content": [{"type": "text", "text": row["conversations"][1]["value"]}]}]
        prompts.append((processor.apply_chat_template(messages, tokenize=False), images[row["image"]]))
    sized = sorted(((processor(text=[text], images=[image])["input_ids"], text, image) for text, image in prompts),
                   key=lambda prompt: len(prompt[0][0]))
    batch = []
    for ids, text, image in sized:
        if batch and len(ids[0]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append((text, image))
    yield batch


def measure(torch, folder, device, images, seconds):
    """Tokens a second of the checkout in `folder`."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
        torch.set_default_dtype(torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    rows = json.loads(max(folder.parent.glob("data-*.json"), key=lambda path: path.stat().st_size).read_text())[:128]
    inputs = []
    for batch in batches_of(processor, rows, images):
        one = processor(text=[text for text, _ in batch], images=[image for _, image in batch], padding=True, return_tensors="pt")
        inputs.append(one.to(device))
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    with torch.inference_mode():
        model.model(**inputs[0])
        wait()
        tokens, before = 0, time.perf_counter()
        while time.perf_counter() - before < seconds:
            for one in inputs:
                model.model(**one).last_hidden_state.cpu()
                tokens += int(one["attention_mask"].sum())
        wait()
        return tokens / (time.perf_counter() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--images", required=True, type=pathlib.Path)
    options = parser.parse_args()
    try:
        import torch
        import torchvision  # noqa: F401 - the image processor needs it
        import transformers
        from PIL import Image
    except ImportError as error:
        skip(f"{sys.executable} has no {error.name}")
    if options.device != "cpu" and not torch.cuda.is_available():
        skip("torch sees no GPU")
    images = {path.name: Image.open(path).convert("RGB") for path in options.images.iterdir()}
    seconds = 1 if options.device == "cpu" else 8
    for folder in sorted(options.folder.glob("model-*")):
        speed = measure(torch, folder, options.device, images, seconds)
        size = folder.name.removeprefix("model-")
        print(f"PyTorch extract {size}: speed\t{speed:.0f} tokens/s\ttransformers {transformers.__version__}, torch {torch.__version__}, "
              f"sdpa, sorted by length, the model alone; the target is 1.3 times this", flush=True)
        figure = ours(options.folder, f"extract {size}: speed")
        if figure:
            print(f"ours / PyTorch: extract {size}\t{figure / speed:.2f}\ttarget at least 1.3", flush=True)


if __name__ == "__main__":
    main()
