"""A step of stage distill in PyTorch, beside the one that the part `stage distill` of `make gpu-bench` left in FOLDER.

  python tests/gpu/torch_step.py --device cuda:0 --folder FOLDER

The same samples, student, Recalibrator, teacher's head and losses: A1 and the student's cross entropy, backward, clipping, AdamW.
Weights are float32 and products bfloat16 by autocast (float32 on a CPU); transformers' student takes sdpa, the vision encoder is
frozen; microbatches hold as many tokens as ours, padded, with positions and indices made ahead of the clock. Measured with gradient
checkpointing, as ours recomputes its blocks where activations take more than 256 MiB, and without. The first step's loss and gradient
must be ours. Prints rows of the table; ends with 3 and a reason where something is missing.
"""

import argparse
import inspect
import json
import pathlib
import resource
import statistics
import sys
import time
import tomllib

from torch_peer import ours, skip

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
try:
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file
    from torch.nn.utils.rnn import pad_sequence
    from torch.utils.checkpoint import checkpoint

    from peer import Peer, cache_rows, images_of
    from twin_step import Recalibrator
except ImportError as error:
    skip(f"{sys.executable} has no {error.name}")

# Relative distance from our loss and gradient norm: float32 on a CPU, bfloat16 elsewhere.
TOLERANCE = {"cpu": (1e-5, 1e-3), "cuda": (0.02, 0.1)}
MOST_STEPS, MOST_SECONDS = 6, 12


class Batched(Recalibrator):
    """Over samples side by side, (B, T, D), with sdpa."""

    is_checkpointed = False

    def rope(self, x, width):
        if not hasattr(self, "angles") or len(self.angles[0]) < x.shape[-2]:
            theta = (getattr(self.c, "rope_parameters", None) or {}).get("rope_theta") or self.c.rope_theta
            frequency = theta ** (-torch.arange(0, width, 2, device=x.device).double() / width)
            angle = torch.outer(torch.arange(x.shape[-2], device=x.device).double(), frequency).repeat(1, 2)
            self.angles = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        cos, sin = (table[: x.shape[-2]] for table in self.angles)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    def attention(self, x, name):
        heads, kv_heads = self.c.num_attention_heads, self.c.num_key_value_heads
        width = getattr(self.c, "head_dim", None) or self.c.hidden_size // heads

        def split(part, count):
            return self.linear(x, f"{name}.{part}").unflatten(-1, (count, width)).transpose(1, 2)

        q, k = self.rope(split("q_proj", heads), width), self.rope(split("k_proj", kv_heads), width)
        mixed = F.scaled_dot_product_attention(q, k, split("v_proj", kv_heads), is_causal=True, enable_gqa=heads != kv_heads)
        return self.linear(mixed.transpose(1, 2).flatten(2), f"{name}.o_proj")

    def __call__(self, x):
        return checkpoint(super().__call__, x, use_reentrant=False) if self.is_checkpointed else super().__call__(x)


class Sample:
    """One sample as the student's processor and the cache have it."""

    def __init__(self, row, student):
        messages, self.images = json.loads(row["messages"]), images_of(row)
        self.text, self.answers = student.render(messages), student.answers(messages, self.images)
        self.length = student.inputs(messages, self.images)["input_ids"].shape[1]
        self.teacher_ids = torch.tensor(row["input_ids"])
        self.teacher_answers = [(turn["answer_start"], turn["answer_start"] + turn["num_answer_tokens"])
                                for turn in row["turns"] if turn["num_answer_tokens"]]
        assert row["positions"] == list(range(len(self.teacher_ids))), "features of all tokens"
        self.z = torch.tensor(row["features"])


class Microbatch:
    """What a forward pass takes, on the device; rows are counted through all samples, padding included."""

    def __init__(self, samples, student, device, dtype):
        inputs = dict(student.processor(text=[sample.text for sample in samples], images=[sample.images for sample in samples],
                                        padding=True, return_tensors="pt"))
        ids, rope = inputs["input_ids"], student.model.model.get_rope_index
        wanted = inspect.signature(rope).parameters
        inputs["position_ids"] = rope(**{name: tensor for name, tensor in inputs.items() if name in wanted})[0]
        # Padding follows each sample, where nothing of it is seen: without a mask, sdpa has its causal kernels.
        self.num_tokens = int(inputs.pop("attention_mask").sum())
        self.inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        student_rows, sequences, scored = [], [], []
        answers, before, targets, num_answers = [], [], [], ids.numel()
        for index, sample in enumerate(samples):
            first, sequence, end_before = index * ids.shape[1], [], 0
            for (start, end), (answer_start, answer_end) in zip(sample.answers, sample.teacher_answers):
                student_rows += range(first + start - 1, first + end - 1)
                sequence += range(first + end_before, first + start)
                length = answer_end - answer_start
                scored += [(index, len(sequence) - 1 + i) for i in range(length)]
                sequence += range(num_answers, num_answers + length)
                answers.append(sample.z[answer_start:answer_end])
                before.append(sample.z[answer_start - 1 : answer_end - 1])
                targets.append(sample.teacher_ids[answer_start:answer_end])
                num_answers, end_before = num_answers + length, end
            sequences.append(torch.tensor(sequence))
        self.sequence = pad_sequence(sequences, batch_first=True).to(device)
        self.scored = torch.tensor([index * self.sequence.shape[1] + at for index, at in scored]).to(device)
        self.student_rows = torch.tensor(student_rows).to(device)
        self.student_targets = ids.flatten()[[row + 1 for row in student_rows]].to(device)
        self.targets = torch.cat(targets).to(device)
        self.answers, self.before = (torch.cat(rows).to(device, dtype) for rows in (answers, before))

    def loss(self, student, rec, head):
        """CE and KL through the teacher's head and the student's CE, summed over its tokens."""
        features = student.model.model(**self.inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        rows = torch.cat((features, rec.linear(self.answers, "proj_pre").to(features.dtype)))
        rows = rows.index_select(0, self.sequence.flatten()).unflatten(0, self.sequence.shape)
        log_q = (rec(rows).flatten(0, 1).index_select(0, self.scored) @ head.T).log_softmax(-1, dtype=torch.float32)
        with torch.no_grad():
            log_p = (self.before @ head.T).log_softmax(-1, dtype=torch.float32)
        logits = features.index_select(0, self.student_rows) @ student.head().T
        return (F.nll_loss(log_q, self.targets, reduction="sum") + F.kl_div(log_q, log_p, reduction="sum", log_target=True)
                + F.cross_entropy(logits.float(), self.student_targets, reduction="sum"))


def microbatches(samples, max_tokens, *where):
    """The samples in turn, as many together as have at most so many tokens, padded."""
    batches, batch = [], []
    for sample in sorted(samples, key=lambda sample: sample.length):
        if batch and sample.length * (len(batch) + 1) > max_tokens:
            batches.append(batch)
            batch = []
        batch.append(sample)
    return [Microbatch(batch, *where) for batch in [*batches, batch]]


class Step:
    """A student and a Recalibrator in training."""

    def __init__(self, folder, config, device):
        self.device, self.is_cuda = device, device != "cpu"
        self.dtype = torch.bfloat16 if self.is_cuda else torch.float32
        self.student = Peer(config["student"], attn_implementation="sdpa")
        self.student.processor.tokenizer.padding_side = "right"
        samples = [Sample(row, self.student) for row in cache_rows(config["cache"])]
        self.batches = microbatches(samples, config["distill"]["microbatch_tokens"], self.student, device, self.dtype)
        self.num_tokens = sum(batch.num_tokens for batch in self.batches)
        # Of the teacher's tokenizer and of the student's, which is the same.
        self.num_scored = sum(len(batch.targets) for batch in self.batches)
        model = self.student.model.to(device).train()
        model.requires_grad_(False)
        model.model.visual.to(self.dtype)
        body = model.model.language_model.requires_grad_(True)
        weights = load_file(folder / "run" / "stages" / "align" / "recalibrator.safetensors", device=device)
        self.rec = Batched({name: weight.requires_grad_() for name, weight in weights.items()}, model.config.get_text_config())
        self.head = load_file(pathlib.Path(config["cache"], "head.safetensors"), device=device)["lm_head.weight"].to(self.dtype)
        self.trained = [*body.parameters(), *self.rec.w.values()]
        self.keys = config["distill"]

    def checkpoint(self, is_on):
        """Whether blocks run again in the backward pass."""
        model = self.student.model
        model.gradient_checkpointing_enable({"use_reentrant": False}) if is_on else model.gradient_checkpointing_disable()
        self.rec.is_checkpointed = is_on

    def run(self, optimizer):
        """One step; its loss and the gradient's norm before it was cut, on the device."""
        losses = []
        for batch in self.batches:
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.is_cuda):
                loss = batch.loss(self.student, self.rec, self.head) / self.num_scored
            loss.backward()
            losses.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.keys["clip"])
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack(losses).sum(), norm

    def measure(self):
        """The first step's loss and gradient norm, the seconds of a step, and the most bytes."""
        keys, wait = self.keys, torch.cuda.synchronize if self.is_cuda else lambda: None
        optimizer = torch.optim.AdamW(self.trained, lr=keys["lr"], betas=(keys["beta1"], keys["beta2"]),
                                      weight_decay=keys["weight_decay"], fused=self.is_cuda)
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        first = [value.item() for value in self.run(optimizer)]
        seconds, began = [], time.perf_counter()
        while len(seconds) < MOST_STEPS and time.perf_counter() - began < MOST_SECONDS:
            wait()
            before = time.perf_counter()
            self.run(optimizer)
            wait()
            seconds.append(time.perf_counter() - before)
        peak = torch.cuda.max_memory_allocated() if self.is_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return first, statistics.median(seconds), peak


def row(*fields):
    print("\t".join(fields), flush=True)


def agreement(folder, device, first):
    """The row that holds the first step to ours."""
    metrics = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    wanted = next(line for line in metrics if line["stage"] == "distill")
    wanted = wanted["loss"], wanted["grad_norm"]
    near = (abs(a - b) <= allowed * abs(b) for a, b, allowed in zip(first, wanted, TOLERANCE[device.split(":")[0]]))
    verdict = "pass" if all(near) else "FAIL"
    row("PyTorch stage distill: first loss", f"{first[0]:.4f}  {verdict}",
        f"ours {wanted[0]:.4f}; gradient's norm {first[1]:.4f}, ours {wanted[1]:.4f}")


def compare(name, how, folder, seconds, peak):
    """Rows of ours by PyTorch's."""
    ours_name = f"stage distill, student {name}"
    for what, target, ratio in (
        ("speed", "at least 1.0", lambda ours: seconds / ours),
        ("memory", "at most 0.7", lambda ours: ours * 2**30 / peak),
    ):
        figure = ours(folder, f"{ours_name}: {'step' if what == 'speed' else what}")
        if figure:
            row(f"ours / PyTorch: step {name}, {what}", f"{ratio(figure):.2f}", f"target {target}; PyTorch {how}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        skip("torch sees no GPU")
    if not (options.folder / "run" / "summary.json").exists():
        skip("the part `stage distill` left no run")
    config = tomllib.loads((options.folder / "run" / "config.toml").read_text())
    step = Step(options.folder, config, options.device)
    name = pathlib.Path(config["student"]).name.removeprefix("model-")
    kind = "max_memory_allocated, ours by nvidia-smi" if step.is_cuda else "peak of the process"
    for is_on in (True, False):
        how = "with checkpointing" if is_on else "without checkpointing"
        step.checkpoint(is_on)
        try:
            first, seconds, peak = step.measure()
        except torch.OutOfMemoryError:
            row(f"PyTorch stage distill {name}, {how}", "out of memory", "")
            continue
        if is_on:
            agreement(options.folder, options.device, first)
        row(f"PyTorch stage distill {name}, {how}: step", f"{seconds:.3f} s",
            f"{step.num_tokens} tokens, {step.num_tokens / seconds:.0f} tokens/s, torch {torch.__version__}, sdpa; ours is to be at least as fast")
        row(f"PyTorch stage distill {name}, {how}: memory", f"{peak / 2**30:.2f} GiB", f"{kind}; ours is to take at most 0.7 of it")
        compare(name, how, options.folder, seconds, peak)


if __name__ == "__main__":
    main()
