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
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENDS = ["<|im_end|>", "</s>", "<end_of_utterance>", "<end_of_turn>"]


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

    auto, auto_processor = AutoModelForImageTextToText, AutoProcessor

    def __init__(self, folder, attn_implementation="eager"):
        self.processor = self.auto_processor.from_pretrained(folder)
        model, info = self.auto.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attn_implementation, output_loading_info=True
        )
        wrong = {kind: names for kind, names in info.items() if names}
        assert not wrong, f"transformers does not load {folder} cleanly: {wrong}"
        self.model = model.eval()
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        # Any of the words that end a turn in a template.
        self.ends = {self.tokenizer.get_vocab()[end] for end in ENDS if end in self.tokenizer.get_vocab()}

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
            if message["role"] != "assistant" or message.get("skip_loss"):
                continue
            before = messages[:index]
            used = sum(part["type"] == "image" for said in before for part in said["content"])
            asked = self.render(before, question=True)
            if text.startswith(asked):
                start = len(asked)
            else:
                marked = before + [message | {"content": [{"type": "text", "text": "\1"}]}]
                start = self.render(marked).index("\1")
            ids = self.process(text[:start], images[:used])["input_ids"][0].tolist()
            # A token that has both the last characters before the answer and its first ones is the answer's.
            first = next((i for i, (ours, theirs) in enumerate(zip(ids, whole)) if ours != theirs), len(ids))
            assert len(ids) - first <= 1, "the text before an answer is not a prefix of the tokens"
            spans.append((first, next(i for i in range(first, len(whole)) if whole[i] in self.ends) + 1))
        return spans


class Suffixed(Peer):
    """PaliGemma, whose processor takes a prefix and a suffix, and whose question is seen both ways where there are labels."""

    def inputs(self, messages, images):
        question, answer = (" ".join(part["text"] for part in message["content"] if part["type"] == "text") for message in messages)
        return self.processor(text="<image>" * len(images) + question, images=[images], suffix=[answer], return_tensors="pt")

    def features(self, inputs):
        caught = []
        hook = self.model.lm_head.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0][0]))
        self.model(**inputs)
        hook.remove()
        return caught[0]

    def answers(self, messages, images):
        suffix = self.inputs(messages, images)["token_type_ids"][0].nonzero()[:, 0]
        return [(suffix[0].item(), suffix[-1].item() + 1)]


class TextPeer(Peer):
    """A decoder alone, whose template takes each message's text."""

    auto, auto_processor = AutoModelForCausalLM, AutoTokenizer

    def render(self, messages, question=False):
        texts = [{"role": m["role"], "content": "".join(part["text"] for part in m["content"])} for m in messages]
        return self.processor.apply_chat_template(texts, tokenize=False, add_generation_prompt=question)

    def process(self, text, images):
        return self.processor(text, return_tensors="pt", return_token_type_ids=False)


def peer_of(folder):
    """The peer that a checkout's files ask for."""
    config = json.loads(pathlib.Path(folder, "config.json").read_text())
    kinds = {"paligemma": Suffixed, **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral"), TextPeer)}
    return kinds.get(config["model_type"], Peer)(folder)
