"""What the peers share: the programs as a user runs them, the cache through pyarrow, the models through transformers.

Nothing here imports code of this project. A disagreement is the project's error or the peer's, never a shared one.
"""

import io
import json
import pathlib
import subprocess
import sys

import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program(name, build, *arguments):
    """Runs `extract` or `distill` and returns the object it prints with --json."""
    command = [str(ROOT / "target" / build / name), *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"failed with {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout)


def cache_rows(cache):
    """The samples of a cache, by key order, as pyarrow reads them."""
    rows = []
    for shard in sorted(pathlib.Path(cache, "data").glob("*.parquet")):
        rows += pq.read_table(shard).to_pylist()
    return sorted(rows, key=lambda row: row["key"])


def images_of(row):
    """The images that a cache embeds."""
    return [Image.open(io.BytesIO(file["bytes"])).convert("RGB") for file in row["image_files"]]


class Peer:
    """A checkpoint in transformers, float32 on the CPU."""

    def __init__(self, folder, attn_implementation="eager"):
        self.processor = AutoProcessor.from_pretrained(folder)
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attn_implementation, output_loading_info=True
        )
        wrong = {kind: names for kind, names in info.items() if names}
        assert not wrong, f"transformers does not load {folder} cleanly: {wrong}"
        self.model = model.eval()
        self.eos = self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def render(self, messages, question=False):
        """The chat template's text; `question`: with the words that open the next answer."""
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=question)

    def process(self, text, images):
        # One list a conversation: LLaVA-OneVision gives a lone picture its tiles, and each of several its whole view alone.
        arguments = {"images": [images]} if images else {}
        return self.processor(text=[text], return_tensors="pt", **arguments)

    def inputs(self, messages, images, question=False):
        """What the model takes of a conversation."""
        return self.process(self.render(messages, question), images)

    def features(self, inputs):
        """(T, D): what the head receives."""
        return self.model.model(**inputs).last_hidden_state[0]

    def head(self):
        return self.model.get_output_embeddings().weight

    def answers(self, messages, images):
        """(first, one past the last) token of each answer, its end-of-turn token included."""
        text = self.render(messages)
        whole = self.process(text, images)["input_ids"][0].tolist()
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = messages[:index]
            used = sum(part["type"] == "image" for said in before for part in said["content"])
            content = "".join(part["text"] for part in message["content"])
            start = text.index(content, len(self.render(before)))
            ids = self.process(text[:start], images[:used])["input_ids"][0].tolist()
            assert whole[: len(ids)] == ids, "the text before an answer is not a prefix of the tokens"
            spans.append((len(ids), whole.index(self.eos, len(ids)) + 1))
        return spans
