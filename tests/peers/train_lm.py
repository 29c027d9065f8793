"""A small language model trained for some minutes on text of this machine, and samples of text that it has not seen.

    python tests/peers/train_lm.py --processor CHECKOUT --text DIR... --out DIR [--width 1024] [--minutes 8]

`bench_cache.py --teacher` measures the cache on its features: random weights would give features that no trained model has.
OUT/model is a Qwen2 checkout with the tokenizer and template of CHECKOUT, OUT/texts.json are LLaVA rows of 25 to 2,500 tokens.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

SUFFIXES = {".txt", ".md", ".rst", ".py", ".rs", ".html"}
LENGTH = 256
BATCH = 4


def texts_of(folders):
    """The text files below the folders, in an order that does not depend on the disk's: (for training, held out)."""
    paths = sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*") if path.suffix in SUFFIXES)
    texts = [path.read_text(errors="ignore") for path in paths if path.is_file() and path.stat().st_size > 4096]
    random.Random(0).shuffle(texts)
    return texts[len(texts) // 10 :], texts[: len(texts) // 10]


def batches(texts, tokenizer):
    """Windows of the texts, (BATCH, LENGTH + 1) token ids, without end."""
    draw = random.Random(1)
    weights = [len(text) for text in texts]
    while True:
        windows = []
        while len(windows) < BATCH:
            text = draw.choices(texts, weights)[0]
            start = draw.randrange(max(1, len(text) - 8 * LENGTH))
            ids = tokenizer.encode(text[start : start + 8 * LENGTH]).ids[: LENGTH + 1]
            if len(ids) == LENGTH + 1:
                windows.append(ids)
        yield torch.tensor(windows)


def train(model, texts, tokenizer, minutes):
    """AdamW with a warm-up and a cosine over the time that there is; the mean loss of the last 20 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    start, losses = time.monotonic(), []
    for step, ids in enumerate(batches(texts, tokenizer)):
        done = (time.monotonic() - start) / (60 * minutes)
        if done >= 1:
            break
        rate = 1e-3 * min(1, (step + 1) / 20) * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}, {100 * done:.0f} %, loss {sum(losses[-20:]) / len(losses[-20:]):.3f}", flush=True)
    return len(losses), sum(losses[-20:]) / len(losses[-20:])


def save(model, config, processor, folder):
    """A checkout as the hub has it: weights in bfloat16, the tokenizer's and the template's files copied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in pathlib.Path(processor).iterdir():
        if path.is_file() and path.name.startswith(("tokenizer", "chat_template", "merges", "vocab", "special")):
            shutil.copy(path, folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["Qwen2ForCausalLM"]}, default=str))
    weights = {name: weight.detach().bfloat16().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rows_of(texts, count):
    """Rows whose lengths are spread evenly over orders of magnitude: 60 to 6,000 characters, a quarter of them the answer."""
    draw = random.Random(2)
    rows = []
    while len(rows) < count:
        text, length = draw.choice(texts), int(60 * 100 ** draw.random())
        start = draw.randrange(max(1, len(text) - length))
        piece = text[start : start + length].replace("<image>", "")
        cut = len(piece) * 3 // 4
        question, answer = piece[:cut].strip(), piece[cut:].strip()
        if question and answer:
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            rows.append({"id": f"text/{len(rows)}", "conversations": turns})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processor", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--rows", type=int, default=400)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    tokenizer = Tokenizer.from_file(str(args.processor / "tokenizer.json"))
    training, held_out = texts_of(args.text)
    config = Qwen2Config(
        vocab_size=(tokenizer.get_vocab_size() + 63) // 64 * 64, hidden_size=args.width, intermediate_size=2 * args.width,
        num_hidden_layers=args.layers, num_attention_heads=args.width // 64, num_key_value_heads=args.width // 256,
        max_position_embeddings=32768, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    steps, loss = train(model, training, tokenizer, args.minutes)
    save(model, config, args.processor, args.out / "model")
    (args.out / "texts.json").write_text(json.dumps(rows_of(held_out, args.rows)))
    print(json.dumps({"steps": steps, "tokens": steps * BATCH * LENGTH, "loss": loss, "files": len(training)}))


if __name__ == "__main__":
    main()
