"""Checkouts that nobody chose: each family's fixture with other sizes, seeds, images and questions, beside transformers.

  python tests/peers/vary.py [--seed 1] [--rounds 3] [--build release] [FAMILY...]

Widths, heads, depths, windows, rotary scalings, tilings and limits of pixels are drawn, weights too; pictures have odd sizes, modes and formats, and
conversations one to three turns. `extract run` makes a cache of each checkout; token ids must equal transformers', and features must
agree within 2e-4 of the largest. `extract answers` asks the first questions, past the length at which keys and values move to where
there is room again; its responses must be transformers' greedy ones. A failure names the family and the seed, and the same seed makes it again.
"""

import argparse
import json
import pathlib
import random
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from peer import ROOT, cache_rows, images_of, peer_of, program

FIXTURES = ROOT / "tests/fixtures"
sys.path.insert(0, str(FIXTURES))
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "internvl_chat", "llava", "llava_next", "llava_onevision", "idefics3", "smolvlm",
            "paligemma", "gemma3", "pixtral", "mistral3"]
# What else than its own decoder a family's checkouts have.
DECODERS = {"llava": ["llama", "mistral", "qwen2"], "llava_next": ["llama", "mistral", "qwen2"], "llava_onevision": ["qwen2", "qwen3"],
            "internvl": ["qwen2", "qwen3", "llama", "mistral"], "internvl_chat": ["qwen2", "qwen3", "llama"]}
TOLERANCE = 2e-4
# More than layers::kv::ROOM.
NEW_TOKENS = 80
WORDS = "Is there a red circle left of the blue bar? Two, three; naïve café 3.14 — 你好 🎉 yes\nno\tThe  second".split(" ")


def drawn_class(config, rng, family):
    """A decoder of any class that the family's checkouts may name, in place."""
    config["model_type"] = kind = rng.choice(DECODERS[family])
    # These classes state a head's width; Llama's and Mistral's may.
    if kind == "qwen3" or kind != "qwen2" and rng.random() < 0.3:
        config["head_dim"] = 8
    config |= {"rope_theta": 1e4}
    config.pop("sliding_window", None)


def drawn_text(config, rng, family):
    """Another decoder of the same kind, in place."""
    kv_heads, group = rng.choice([1, 2]), rng.choice([1, 2, 3])
    heads = kv_heads * group
    # Three axes share the angles of a head; they take any share of them.
    width = rng.choice([8, 12, 16, 20])
    # Free of the heads where their width is stated; Gemma's configuration wants a multiple of their number all the same.
    hidden = heads * rng.randrange(8, 28, 4) if "head_dim" in config else heads * width
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": hidden,
               "intermediate_size": rng.randrange(9, 40) * 2, "num_hidden_layers": rng.randrange(1, 5),
               "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-4])}
    if "head_dim" in config:
        config["head_dim"] = width
    if family.startswith("qwen"):
        time = rng.randrange(1, width // 4)
        high = rng.randrange(1, width // 2 - time)
        sections = [time, high, width // 2 - time - high]
        # Interleaved axes go round, so each has at most a third of the places.
        if family == "qwen3_vl":
            third = width // 2 // 3
            sections = [width // 2 - 2 * third, third, third]
        config["rope_scaling"] = drawn_scaling(config["rope_scaling"], rng) | {"mrope_section": sections}
    elif not family.startswith(("gemma", "paligemma")) and (scaling := drawn_scaling(None, rng)):
        config["rope_scaling"] = scaling
    if "rope_theta" in config:
        config["rope_theta"] = float(rng.choice([500, 10_000, 1_000_000]))
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = rng.choice([width, width * 2])
    if config.get("model_type") == "mistral":
        config["sliding_window"] = rng.choice([None, 8, 24])
    if config["model_type"] in ("qwen2", "qwen3", "qwen2_vl", "qwen2_5_vl"):
        config |= {"use_sliding_window": rng.random() < 0.3, "sliding_window": rng.choice([8, 24]), "max_window_layers": rng.choice([0, 1])}
    if family == "gemma3":
        config |= {"rope_scaling": {"rope_type": "linear", "factor": rng.choice([1.5, 8.0])}, "rope_local_base_freq": rng.choice([100.0, 1e4]),
                   "sliding_window": rng.choice([4, 6, 30]), "sliding_window_pattern": rng.choice([2, 3, 6])}


def drawn_scaling(plain, rng):
    """`plain`, or what says the same of positions and scales for a longer context: prompts have more tokens than the first one had."""
    original, factor = rng.choice([8, 16, 40]), rng.choice([1.5, 4.0])
    scalings = {"yarn": {"original_max_position_embeddings": original}, "linear": {},
                "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": original}}
    kind = rng.choice([None, None, "yarn", *scalings])
    if kind is None:
        return plain
    kept = {key: value for key, value in (plain or {}).items() if key == "mrope_interleaved"}
    return kept | {rng.choice(["type", "rope_type"]): kind, "factor": factor} | scalings[kind]


def drawn_vision(config, rng, family, text):
    """Another encoder of the same kind, in place, before the decoder of `text`."""
    hidden, blocks = text["hidden_size"], text["num_hidden_layers"]
    heads, width = rng.choice([1, 2, 3]), rng.choice([4, 8, 12])
    depth = rng.randrange(2, 5)
    embed = "embed_dim" if "embed_dim" in config else "hidden_size"
    config[embed] = heads * width
    config["num_heads" if "num_heads" in config else "num_attention_heads"] = heads
    config["depth" if "depth" in config else "num_hidden_layers"] = depth
    if "intermediate_size" in config:
        config["intermediate_size"] = rng.randrange(5, 25) * 2
    if family == "qwen2_vl":
        config["hidden_size"] = hidden
    if family.startswith("internvl"):
        config |= {"attention_bias": rng.random() < 0.5, "use_qk_norm": rng.random() < 0.5, "norm_type": rng.choice(["layer_norm", "rms_norm"])}
    if family == "internvl":
        config["use_mean_pooling"] = rng.random() < 0.7
    if family in ("pixtral", "mistral3"):
        config["hidden_act"] = rng.choice(["gelu", "silu"])
    for key in ("out_hidden_size", "projection_dim"):
        if key in config:
            config[key] = hidden
    if "fullatt_block_indexes" in config:
        config["fullatt_block_indexes"] = sorted(rng.sample(range(depth), rng.randrange(1, depth)))
        config["window_size"] = rng.choice([8, 16, 24])
    if "deepstack_visual_indexes" in config:
        # Each tap needs a block of the decoder to be added after.
        config["deepstack_visual_indexes"] = sorted(rng.sample(range(depth), rng.randint(1, min(depth - 1, blocks))))


def drawn_processor(settings, rng, family):
    if "min_pixels" in settings:
        settings |= {"min_pixels": rng.choice([64, 256]), "max_pixels": rng.choice([576, 1024, 2304])}
    if family == "qwen3_vl":
        settings["size"] = {"shortest_edge": rng.choice([64, 256]), "longest_edge": rng.choice([576, 1024, 2304])}
    if family == "internvl_chat":
        settings |= {"crop_to_patches": True, "max_patches": rng.randrange(2, 8)}
    if family == "internvl":
        settings |= {"crop_to_patches": rng.random() < 0.7, "min_patches": rng.choice([1, 2]), "max_patches": rng.randrange(2, 8)}
    if family in ("pixtral", "mistral3"):
        settings["size"] = {"longest_edge": rng.choice([16, 24, 32, 48])}


def make_files(family, folder, rng):
    """What a checkout has beside its weights, in the sizes of the fixture."""
    from make_families import internvl
    from make_small_families import internvl_chat

    if family == "internvl_chat":
        folder.mkdir()
        rng.choice([internvl, internvl_chat])(folder)
    else:
        shutil.copytree(FIXTURES / family, folder, ignore=shutil.ignore_patterns("*.safetensors*", "ref", "v5", "sharded*"))


def in_original_layout(checkout, folder, rng):
    """The same InternVL as OpenGVLab lays it out, a Llama decoder as InternLM2 or as it is."""
    import internvl_original as layout

    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns("*processor_config.json"))
    config, settings = (json.loads((checkout / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    plain = config["text_config"]["model_type"] == "llama" and rng.random() < 0.5
    weights = layout.original(load_file(checkout / "model.safetensors"), config["text_config"], plain)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = layout.original_config(config, plain) | {"max_dynamic_patch": settings["max_patches"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(layout.preprocessor(config["force_image_size"], settings)))
    return folder


def make_checkout(family, folder, rng, padding=0, dtype=torch.float32):
    """A checkout of random sizes and weights, `padding` tokens more than its tokenizer; only what is said in its files is known of it."""
    from make_families import randomise
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    make_files(family, folder, rng)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    text["vocab_size"] += padding
    is_text = family.endswith("_text")
    if family in DECODERS:
        drawn_class(text, rng, family)
    drawn_text(text, rng, "text" if is_text else family)
    if not is_text:
        drawn_vision(config["vision_config"], rng, family, text)
    for key in ("hidden_size", "projection_dim"):
        if key in config and text is not config:
            config[key] = text["hidden_size"]
    if family in ("llava", "llava_next", "llava_onevision", "pixtral", "mistral3"):
        config |= {"multimodal_projector_bias": rng.random() < 0.5, "projector_hidden_act": rng.choice(["gelu", "gelu_pytorch_tanh"])}
    if not family.startswith(("paligemma", "gemma")):
        config["tie_word_embeddings"] = rng.random() < 0.5
        if "tie_word_embeddings" in text:
            text["tie_word_embeddings"] = config["tie_word_embeddings"]
    path.write_text(json.dumps(config, indent=1))
    if not is_text:
        path = folder / "preprocessor_config.json"
        settings = json.loads(path.read_text())
        drawn_processor(settings, rng, family)
        path.write_text(json.dumps(settings, indent=1))
    auto = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    model = auto.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
    randomise(model, rng.randrange(1 << 30))
    saved = folder / "saved"
    model.to(dtype).save_pretrained(saved)
    shutil.move(saved / "model.safetensors", folder / "model.safetensors")
    shutil.rmtree(saved)


def make_image(path, rng):
    """Noise over a slope: odd sizes, all modes that files have; no side that Pixtral's processor would shrink to nothing and refuse."""
    noise = np.random.default_rng(rng.randrange(1 << 30))
    width, height = rng.randrange(9, 130), rng.randrange(9, 130)
    slope = np.mgrid[0:height, 0:width].sum(0)[..., None] * np.array([1, 2, 3])
    pixels = ((slope + noise.integers(0, 90, (height, width, 3))) % 256).astype(np.uint8)
    mode = rng.choice(["RGB", "RGB", "L", "RGBA", "P"])
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(noise.integers(0, 256, (height, width)).astype(np.uint8)))
    suffix = "jpg" if mode in ("RGB", "L") and rng.random() < 0.5 else "png"
    image.save(path.with_suffix(f".{suffix}"))
    return path.with_suffix(f".{suffix}").name


def make_rows(family, folder, rng, count=6, num_images=None, longest=8):
    """Conversations as LLaVA JSON, with their pictures beside them; PaliGemma takes one question, and has no template for more."""
    one = family == "paligemma"
    num_images = num_images or ([1, 1, 2] if one else [0, 1, 1, 1, 2])
    said = lambda: " ".join(rng.choices(WORDS, k=rng.randrange(1, longest + 1))).strip() or "yes"
    rows = []
    for index in range(count):
        images = [make_image(folder / f"{index}-{i}", rng) for i in range(rng.choice(num_images))]
        turns = []
        for turn in range(1 if one else rng.choice([1, 1, 2, 3])):
            question = "".join("<image>\n" for _ in images) + said() if turn == 0 else said()
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": said()}]
        rows.append({"id": str(index), "images": images, "conversations": turns})
    return rows


def run(name, build, teacher, data, *more):
    """`extract` on the rows of `data`, whose pictures lie beside it."""
    return program("extract", build, name, "--device", "cpu", "--teacher", teacher, "--data", data, "--image-root", data.parent,
                   "--max-bad", "99", *more)


def worst_feature(peer, cache, name):
    """The largest difference of a feature over the largest feature, and how many tokens there are; raises where tokens differ."""
    worst, tokens = 0.0, 0
    for row in cache_rows(cache):
        inputs = peer.inputs(json.loads(row["messages"]), images_of(row))
        ids = inputs["input_ids"][0].tolist()
        assert ids == row["input_ids"], f"{name}: tokens of sample {row['key']}"
        with torch.no_grad():
            expected = peer.features(inputs)[row["positions"]]
        found = torch.tensor(row["features"])
        worst = max(worst, ((found - expected).abs().max() / expected.abs().max()).item())
        tokens += len(ids)
    return worst, tokens


def equal_answers(peer, rows, folder, file):
    """How many first answers are those that transformers gives."""
    equal = 0
    for row, written in zip(rows, file.read_text().splitlines(), strict=True):
        images = [Image.open(folder / name).convert("RGB") for name in row["images"]]
        question = row["conversations"][0]["value"].replace("<image>\n", "")
        content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
        inputs = peer.inputs([{"role": "user", "content": content}], images, question=True)
        with torch.no_grad():
            said = peer.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1]:]
        # Python strips control characters that are no white space in Unicode.
        response = json.loads(written)["provenance"]["turns"][0]["response"].strip()
        equal += response == peer.tokenizer.decode(said, skip_special_tokens=True).strip()
    return equal


def check(family, seed, build):
    """Raises where something differs; else what to say of it."""
    name, rng = f"{family}, seed {seed}", random.Random(f"{family} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_checkout(family, folder / "peer", rng)
        teacher = in_original_layout(folder / "peer", folder / "teacher", rng) if family == "internvl_chat" else folder / "peer"
        rows, data, asked = make_rows(family, folder, rng), folder / "data.json", folder / "asked.json"
        data.write_text(json.dumps(rows))
        run("run", build, teacher, data, "--dtype", "f32", "--out", folder / "cache", "--features-all-for", len(rows), "--embed-images")
        peer = peer_of(folder / "peer")
        error, tokens = worst_feature(peer, folder / "cache", name)
        assert error < TOLERANCE, f"{name}: features off by {error:.1e}"
        said = f"{len(rows)} samples, {tokens:5} tokens: features within {error:.1e}"
        # PaliGemma sees a question without an answer otherwise, as its own fixture has it.
        if family == "paligemma":
            return said
        asked.write_text(json.dumps([row | {"conversations": row["conversations"][:2]} for row in rows]))
        run("answers", build, teacher, asked, "--out", folder / "answers.jsonl", "--tries", 1, "--sample", "never", "--max-new-tokens",
            NEW_TOKENS)
        equal = equal_answers(peer, rows, folder, folder / "answers.jsonl")
        assert equal == len(rows), f"{name}: {equal} of {len(rows)} answers equal transformers'"
        return f"{said}, answers equal"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", default=FAMILIES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", default="release")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    # Rotary scalings are for prompts of a hundred tokens here, which it finds odd.
    transformers.utils.logging.set_verbosity_error()
    for family in args.families:
        for seed in range(args.seed, args.seed + args.rounds):
            print(f"{family:16} seed {seed:4}  {check(family, seed, args.build)}", flush=True)


if __name__ == "__main__":
    main()
