"""What the benchmarks of size share: checkpoints of a chosen size, and the programs with their time and peak memory.

Time is the processor's, of all threads together (user and system, as the kernel counts them for the program that ended):
it tells what a step costs even where other programs share the cores, and is about `threads` times the time on an idle
machine's clock.
"""

import json
import os
import pathlib
import resource
import shutil

from peer import program

WORDS = "There are two red rings left of the small blue cube and one more behind it".split()


def make_checkout(processor, folder, width, layers, vocabulary=None, vision=(4, 256), **keys):
    """A Qwen2-VL of random weights with the tokenizer, template and image settings of `processor`; its parameters.

    `vision` has the number and the width of the vision encoder's blocks; `keys` are further ones of the configuration."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = pathlib.Path(folder)
    shutil.copytree(processor, folder, ignore=shutil.ignore_patterns("*.safetensors*", "ref", "v5", "sharded*"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": width, "intermediate_size": width * 8 // 3 // 8 * 8, "num_hidden_layers": layers,
               "num_attention_heads": width // 64, "num_key_value_heads": width // 128,
               "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}, "tie_word_embeddings": False} | keys
    if vocabulary:
        config["vocab_size"] = vocabulary
    depth, embed = vision
    config["vision_config"] |= {"depth": depth, "embed_dim": embed, "num_heads": embed // 64, "mlp_ratio": 4, "hidden_size": width}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    rename = lambda name: name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
    weights = {rename(name): weight.detach().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(weight.numel() for weight in weights.values())


def rows_with_answers(data, count, words=None):
    """`count` rows spread over the data, each answer replaced by `words` words where that is given."""
    rows = json.loads(pathlib.Path(data).read_text())
    rows = [row for row in rows if len(row["conversations"]) == 2]
    rows = rows[:: max(1, len(rows) // count)][:count]
    for index, row in enumerate(rows if words else []):
        row["conversations"][1]["value"] = " ".join(WORDS[(index + i) % len(WORDS)] for i in range(words))
    return rows


def processor_seconds(work):
    """What `work()` returns, and the processor's seconds of the programs it ran."""
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = used()
    result = work()
    return result, used() - before


def extract(teacher, rows, image_root, cache, threads, more=("--embed-images",)):
    """The summary of `extract run` on these rows."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    data = pathlib.Path(f"{cache}.json")
    data.write_text(json.dumps(rows))
    return program("extract", "release", "run", "--device", "cpu", "--teacher", teacher, "--data", data, "--image-root",
                   image_root, "--out", cache, *more)


def distill_steps(cache, student, out, rows, steps, threads, sets=()):
    """Steps of stage distill, all rows in each: the processor's seconds a step, and the peak of memory in bytes.

    A run of one step is taken from one of `steps` more, so that starting, loading and writing count in neither.
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)

    def run(num_steps):
        keys = [f"distill.steps={num_steps}", f"distill.batch_size={rows}", "eval.holdout=0", "checkpoint.every=1000", *sets]
        return processor_seconds(lambda: program(
            "distill", "release", "run", "--device", "cpu", "--cache", cache, "--student", student, "--out",
            f"{out}-{num_steps}", "--stages", "distill", *(part for key in keys for part in ("--set", key))))

    (_, one), (summary, all_of_them) = run(1), run(1 + steps)
    return (all_of_them - one) / steps, summary["peak_rss_bytes"]
