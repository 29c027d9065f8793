"""One step of each stage in PyTorch, beside the same step of `distill run`.

The programs run as a user runs them: a teacher's features are extracted, then steps of align, distill and finetune are
made with a learning rate so small that no weight moves. The metrics then hold the losses, and AdamW's first moment,
which is (1 - beta1) times the gradient, holds the gradients. PyTorch does the same from the paper's formulas with
transformers' models: losses must agree within 1e-5 of their size, gradients within 1e-4 of theirs. A second run makes
three real updates in each stage, one after the other, which PyTorch makes too with its own AdamW and clipping: the losses
and the gradient's norm of all nine steps must agree.

  python tests/peers/twin_step.py --teacher DIR --student DIR --data FILE --image-root DIR [--answer tokens] [--build debug]
    [--write golden.json]

`--answer` is the key `recalibrator.answer`: what the Recalibrator sees of the answer.
"""

import argparse
import json
import pathlib
import tempfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from peer import Peer, cache_rows, images_of, program

BETA1 = 0.9
STAGES = ["align", "distill", "finetune"]
TERMS = ["loss", "ce_teacher", "kl", "ce_regularisation", "kl_regularisation", "ce_student"]
RUN_KEYS = [f"{stage}.{key}" for stage in STAGES
            for key in ("steps=2", "lr=1e-30", "lr_end=1e-30", "warmup=0.0", "clip=0.0", "batch_size=1000")]
RUN_KEYS += ["finetune.train=['vision','projector','body','head']", "eval.holdout=0", "checkpoint.every=1", "checkpoint.keep=9"]
# The second run: three updates a stage, with decay on matrices and a norm that is cut.
RATE, DECAY, CLIP, NUM_UPDATES = 1e-3, 0.1, 1.0, 3
UPDATE_KEYS = [f"{stage}.{key}" for stage in STAGES
               for key in (f"steps={NUM_UPDATES}", f"lr={RATE}", f"lr_end={RATE}", "warmup=0.0", f"clip={CLIP}",
                           f"weight_decay={DECAY}", "batch_size=1000")]
UPDATE_KEYS += ["finetune.train=['vision','projector','body','head']", "eval.holdout=0", "eval.every=1000"]
# Two steps a stage, because a stage's last step leaves no checkpoint; the first of each is compared.
STEPS = dict(zip(STAGES, (1, 3, 5)))


class Recalibrator:
    """Rec of the paper in plain PyTorch, from our safetensors by name."""

    def __init__(self, weights, text_config, answer="features"):
        self.w, self.c, self.answer = weights, text_config, answer
        self.blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def rms_norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.c.rms_norm_eps)

    def rope(self, x, width):
        parameters = getattr(self.c, "rope_parameters", None) or {}
        theta = parameters.get("rope_theta") or self.c.rope_theta
        frequency = theta ** (-torch.arange(0, width, 2).double() / width)
        angle = torch.outer(torch.arange(x.shape[-2]).double(), frequency).repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * angle.cos().float() + torch.cat((-second, first), -1) * angle.sin().float()

    def attention(self, x, name):
        heads, kv_heads = self.c.num_attention_heads, self.c.num_key_value_heads
        width = getattr(self.c, "head_dim", None) or self.c.hidden_size // heads

        def split(part, count):
            return self.linear(x, f"{name}.{part}").view(len(x), count, width).transpose(0, 1)

        q, k = self.rope(split("q_proj", heads), width), self.rope(split("k_proj", kv_heads), width)
        k, v = (part.repeat_interleave(heads // kv_heads, 0) for part in (k, split("v_proj", kv_heads)))
        scores = q @ k.transpose(1, 2) / width**0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        return self.linear(mixed, f"{name}.o_proj")

    def __call__(self, x):
        for index in range(self.blocks):
            name = f"blocks.{index}"
            x = x + self.attention(self.rms_norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            y = self.rms_norm(x, f"{name}.post_attention_layernorm")
            gate = F.silu(self.linear(y, f"{name}.mlp.gate_proj"))
            x = x + self.linear(gate * self.linear(y, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj")
        r = self.linear(x, "proj_post")
        return F.layer_norm(r, r.shape[-1:], self.w["norm.weight"], self.w["norm.bias"], 1e-5)


class Sample:
    """One sample as both models take it."""

    def __init__(self, row, teacher, student):
        messages, images = json.loads(row["messages"]), images_of(row)
        self.inputs = student.inputs(messages, images)
        self.ids = self.inputs["input_ids"][0]
        self.answers = student.answers(messages, images)
        inputs = teacher.inputs(messages, images)
        self.teacher_ids = inputs["input_ids"][0]
        assert self.teacher_ids.tolist() == row["input_ids"], "the teacher's tokens"
        assert row["positions"] == list(range(len(row["input_ids"]))), "features of all tokens"
        self.teacher_answers = teacher.answers(messages, images)
        self.starts = [pair for ours, theirs in zip(self.answers, self.teacher_answers)
                       for pair in common_starts(student, self.ids, ours, teacher, self.teacher_ids, theirs)]
        spans = [(turn["answer_start"], turn["answer_start"] + turn["num_answer_tokens"])
                 for turn in row["turns"] if turn["num_answer_tokens"]]
        assert spans == self.teacher_answers, "the teacher's answer spans"
        self.z = torch.tensor(row["features"])
        with torch.no_grad():
            error = (teacher.features(inputs) - self.z).abs().max().item()
        assert error < 2e-4, f"the teacher's features differ by {error}"


def common_starts(student, ids, ours, teacher, teacher_ids, theirs):
    """Tokens of one answer, ours and the teacher's, that begin at the same character of it."""
    def starts(peer, ids, span):
        # The fixtures' unknown characters are one each.
        text = [peer.processor.tokenizer.decode(ids[span[0]:token]).replace("<unk>", "?") for token in range(*span)]
        return {len(said): token for said, token in zip(text, range(*span))}

    ours, theirs = starts(student, ids, ours), starts(teacher, teacher_ids, theirs)
    return [(ours[at], theirs[at]) for at in sorted(ours.keys() & theirs.keys())]


def answer_rows(rec, head, sample, start, end):
    """What the Recalibrator sees of tokens `start` to `end` of the teacher's answer."""
    if rec.answer == "tokens":
        rows = head[sample.teacher_ids[start:end]]
        return rec.linear(rows / rows.square().mean(-1, keepdim=True).sqrt(), "proj_pre")
    return rec.linear(sample.z[start:end], "proj_pre")


def through_recalibrator(rec, head, sample, questions, spans):
    """Sums of CE and KL of one sample, and its scored tokens; `questions` stand for all that is no answer."""
    parts, scored, targets, teacher_rows, length, before = [], [], [], [], 0, 0
    for (start, end), (answer_start, answer_end) in zip(spans, sample.teacher_answers):
        parts.append(questions[before:start])
        length += start - before
        scored += range(length - 1, length - 1 + answer_end - answer_start)
        targets += range(answer_start, answer_end)
        teacher_rows += range(answer_start - 1, answer_end - 1)
        parts.append(answer_rows(rec, head, sample, answer_start, answer_end))
        length += answer_end - answer_start
        before = end
    return predictions(rec(torch.cat(parts))[scored], head, sample, targets, teacher_rows)


def predictions(r, head, sample, targets, teacher_rows):
    """CE and KL of features `r` for the teacher's tokens `targets`, which its features `teacher_rows` predict."""
    log_q = (r @ head.T).log_softmax(-1)
    log_p = (sample.z[teacher_rows] @ head.T).log_softmax(-1)
    ce = F.nll_loss(log_q, sample.teacher_ids[targets], reduction="sum")
    return ce, F.kl_div(log_q, log_p, reduction="sum", log_target=True), len(targets)


def through_recalibrator_from_student(rec, head, sample, features):
    """The same from the student's features of questions and answers, where both models begin a token."""
    ours, theirs = map(list, zip(*sample.starts))
    return predictions(rec(features)[[token - 1 for token in ours]], head, sample, theirs, [token - 1 for token in theirs])


def terms_of(stage, sample, student, rec, head):
    """Name of each loss term: its sum over one sample's tokens, and their number."""
    terms = {}
    features = student.features(sample.inputs)
    if stage != "finetune":
        if rec.answer == "student":
            ce, kl, count = through_recalibrator_from_student(rec, head, sample, features)
        else:
            ce, kl, count = through_recalibrator(rec, head, sample, features, sample.answers)
        terms |= {"ce_teacher": (ce, count), "kl": (kl, count)}
    if stage == "align":
        questions = rec.linear(sample.z, "proj_pre")
        ce, kl, count = through_recalibrator(rec, head, sample, questions, sample.teacher_answers)
        terms |= {"ce_regularisation": (ce, count), "kl_regularisation": (kl, count)}
    else:
        rows = [token - 1 for start, end in sample.answers for token in range(start, end)]
        logits = features[rows] @ student.head().T
        ce = F.cross_entropy(logits, sample.ids[[row + 1 for row in rows]], reduction="sum")
        terms["ce_student"] = (ce, len(rows))
    return terms


def torch_step(stage, samples, student, rec, head):
    """The means of the loss terms; gradients are left in the weights."""
    counts = {}
    with torch.no_grad():
        for sample in samples:
            for name, (_, count) in terms_of(stage, sample, student, rec, head).items():
                counts[name] = counts.get(name, 0) + count
    means = dict.fromkeys(counts, 0.0)
    for sample in samples:
        terms = terms_of(stage, sample, student, rec, head)
        sum(value / counts[name] for name, (value, _) in terms.items()).backward()
        for name, (value, _) in terms.items():
            means[name] += value.item() / counts[name]
    return {"loss": sum(means.values()), **means}


def torch_name(ours, names):
    """The transformers parameter that a name of the hub's layout means."""
    bare = ours.removeprefix("language_model.").removeprefix("model.")
    ends = [name for name in names if name == ours or name == bare or name.endswith("." + bare)]
    assert len(ends) == 1, f"{ours} is one of {ends}"
    return ends[0]


def compare(stage, step, run, samples, student, rec, head):
    """Both sides of one stage; returns what a golden file keeps."""
    for weight in [*student.model.parameters(), *rec.w.values()]:
        weight.grad = None
    wanted = torch_step(stage, samples, student, rec, head)
    lines = pathlib.Path(run, "metrics.jsonl").read_text().splitlines()
    metrics = next(row for row in map(json.loads, lines) if row["step"] == step)
    for name in TERMS:
        if name in wanted:
            error = abs(metrics[name] - wanted[name]) / abs(wanted[name])
            print(f"{stage:9} {name:20} ours {metrics[name]:.7f}  PyTorch {wanted[name]:.7f}  error {error:.1e}")
            assert error < 1e-5, f"{stage}: {name}"
    parameters = dict(student.model.named_parameters())
    moments = load_file(pathlib.Path(run, "checkpoints", f"step-{step}", "optimizer.safetensors"))
    ours = {name[2:]: m / (1 - BETA1) for name, m in moments.items() if name.startswith("m.")}
    norm = torch.stack([g.norm() for g in ours.values()]).norm().item()
    worst, norms = 0.0, {}
    for name, gradient in ours.items():
        part, _, bare = name.partition(".")
        weight = rec.w[bare] if part == "recalibrator" else parameters[torch_name(bare, parameters)]
        assert weight.grad is not None, f"{stage}: PyTorch has no gradient for {name}"
        error = (gradient - weight.grad).norm().item()
        # A key's bias has no effect under softmax: its gradient is noise, so a part of the whole norm is allowed.
        allowed = 1e-4 * weight.grad.norm().item() + 1e-6 * norm
        assert error <= allowed, f"{stage}: gradient of {name} differs by {error:.2e}, allowed {allowed:.2e}"
        worst = max(worst, error / (weight.grad.norm().item() + 1e-2 * norm))
        # A norm and a projection: a test without these tensors compares both.
        flat = weight.grad.double().flatten()
        norms[name] = [flat.norm().item(), (flat * torch.arange(len(flat)).double().cos()).sum().item()]
    print(f"{stage:9} {len(ours)} gradients agree, worst {worst:.1e} of its size; norm {norm:.6f}\n")
    return {**wanted, "grad_norm": torch.tensor([norm for norm, _ in norms.values()]).double().norm().item(), "gradients": norms}


def updates(run, samples, student, rec, head):
    """Three updates of each stage, beside those of a run; returns the losses and norms of PyTorch's."""
    rows = map(json.loads, pathlib.Path(run, "metrics.jsonl").read_text().splitlines())
    body = list(student.model.model.language_model.parameters())
    trained = dict(zip(STAGES, (list(rec.w.values()), body + list(rec.w.values()), list(student.model.parameters()))))
    golden = []
    for stage in STAGES:
        groups = [{"params": [w for w in trained[stage] if (w.dim() > 1) == is_matrix], "weight_decay": decay}
                  for is_matrix, decay in ((True, DECAY), (False, 0.0))]
        optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(BETA1, 0.95), eps=1e-8)
        for _ in range(NUM_UPDATES):
            for weight in [*student.model.parameters(), *rec.w.values()]:
                weight.grad = None
            wanted = torch_step(stage, samples, student, rec, head)
            wanted["grad_norm"] = torch.nn.utils.clip_grad_norm_(trained[stage], CLIP).item()
            optimizer.step()
            metrics = next(rows)
            worst = max(abs(metrics[name] - value) / abs(value) for name, value in wanted.items())
            print(f"{stage:9} step {metrics['step']}  loss {wanted['loss']:.7f}  worst error {worst:.1e}")
            assert metrics["stage"] == stage and worst < 5e-5, f"step {metrics['step']}"
            golden.append({"stage": stage, **wanted})
    return golden


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-root", required=True)
    parser.add_argument("--answer", default="features", choices=["features", "tokens", "student"])
    parser.add_argument("--build", default="release")
    parser.add_argument("--write", help="keep PyTorch's numbers in this file, for the test that needs no Python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache, run = pathlib.Path(folder, "cache"), pathlib.Path(folder, "run")
        program("extract", args.build, "run", "--teacher", args.teacher, "--data", args.data, "--out", cache,
                "--image-root", args.image_root, "--features", "all", "--embed-images", "--dtype", "f32")
        answer = ["--set", f"recalibrator.answer={args.answer}"]
        sets = answer + [part for key in RUN_KEYS for part in ("--set", key)]
        program("distill", args.build, "run", "--cache", cache, "--student", args.student, "--out", run, *sets)
        teacher, student = Peer(args.teacher), Peer(args.student)
        samples = [Sample(row, teacher, student) for row in cache_rows(cache)]
        head = load_file(cache / "head.safetensors")["lm_head.weight"].float()
        weights = load_file(run / "checkpoints" / "step-1" / "weights.safetensors")
        rec_weights = {name.removeprefix("recalibrator."): weight.requires_grad_()
                       for name, weight in weights.items() if name.startswith("recalibrator.")}
        rec = Recalibrator(rec_weights, student.model.config.get_text_config(), args.answer)
        golden = {stage: compare(stage, STEPS[stage], run, samples, student, rec, head) for stage in STAGES}
        sets = answer + [part for key in UPDATE_KEYS for part in ("--set", key)]
        program("distill", args.build, "run", "--cache", cache, "--student", args.student, "--out", f"{folder}/updates", *sets)
        golden["updates"] = updates(f"{folder}/updates", samples, student, rec, head)
    print(f"{len(samples)} samples: three stages agree")
    if args.write:
        pathlib.Path(args.write).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
