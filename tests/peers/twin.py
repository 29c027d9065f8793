"""The paper's formulas in plain PyTorch: the Recalibrator, and the loss terms of each stage with the keys that decide them.

What the peers of training share (`twin_step.py`, `vary_step.py`, `lora.py`). Nothing is packed, chunked or fused here: one sample
at a time, whole matrices of logits, and gradients from autograd.
"""

import json
import re

import torch
import torch.nn.functional as F

from peer import images_of

# What decides the losses, and the Recalibrator's shape, with the defaults of docs/method.md.
DEFAULTS = {
    "loss.ce_teacher": 1.0, "loss.kl": 1.0, "loss.ce_student": 1.0, "loss.method": 1.0, "loss.temperature": 1.0, "loss.score_boundary": True,
    "loss.regulariser": "ce_kl", "loss.regularisation": 1.0, "loss.regularisation_question": "all", "align.regularisation": True,
    "recalibrator.answer": "features", "recalibrator.new_positions": True, "recalibrator.norm": "after", "data.answers": "all",
}


class Recalibrator:
    """Rec of the paper in plain PyTorch, from our safetensors by name."""

    def __init__(self, weights, text_config, keys=None, precision=torch.float32):
        # Logits are formed in the type `precision`, and all that is made of them.
        self.w, self.c, self.keys, self.precision = weights, text_config, DEFAULTS | (keys or {}), precision
        self.blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        self.is_gemma = text_config.model_type.startswith("gemma")

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def rms_norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.w[f"{name}.weight"] + float(self.is_gemma), self.c.rms_norm_eps)

    def rope(self, x, positions):
        parameters = getattr(self.c, "rope_parameters", None) or {}
        parameters = parameters.get("full_attention", parameters)
        theta, width = parameters.get("rope_theta") or self.c.rope_theta, x.shape[-1]
        frequency = theta ** (-torch.arange(0, width, 2).double() / width)
        angle = torch.outer(positions.double(), frequency).repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * angle.cos().to(x.dtype) + torch.cat((-second, first), -1) * angle.sin().to(x.dtype)

    def heads(self, x, name, heads, kv_heads, width):
        """Queries, keys and values, each (heads, tokens, width)."""
        if f"{name}.qkv_proj.weight" in self.w:
            groups = self.linear(x, f"{name}.qkv_proj").view(len(x), kv_heads, heads // kv_heads + 2, width)
            parts = groups[:, :, :-2].flatten(1, 2), groups[:, :, -2], groups[:, :, -1]
        else:
            parts = [self.linear(x, f"{name}.{part}_proj").view(len(x), -1, width) for part in "qkv"]
        if f"{name}.q_norm.weight" in self.w:
            parts = self.rms_norm(parts[0], f"{name}.q_norm"), self.rms_norm(parts[1], f"{name}.k_norm"), parts[2]
        return [part.transpose(0, 1) for part in parts]

    def attention(self, x, name, positions):
        heads, kv_heads = self.c.num_attention_heads, self.c.num_key_value_heads
        width = getattr(self.c, "head_dim", None) or self.c.hidden_size // heads
        q, k, v = self.heads(x, name, heads, kv_heads, width)
        k, v = (part.repeat_interleave(heads // kv_heads, 0) for part in (self.rope(k, positions), v))
        scores = self.rope(q, positions) @ k.transpose(1, 2) / getattr(self.c, "query_pre_attn_scalar", width) ** 0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        return self.linear(mixed, f"{name}.o_proj")

    def block(self, x, name, positions):
        y = self.attention(self.rms_norm(x, f"{name}.input_layernorm"), f"{name}.self_attn", positions)
        # Gemma 3 norms what is added, and calls the norm before the feed-forward otherwise.
        adds_normed = f"{name}.pre_feedforward_layernorm.weight" in self.w
        x = x + (self.rms_norm(y, f"{name}.post_attention_layernorm") if adds_normed else y)
        y = self.rms_norm(x, f"{name}.{'pre_feedforward' if adds_normed else 'post_attention'}_layernorm")
        gate = self.linear(y, f"{name}.mlp.gate_proj")
        gate = F.gelu(gate, approximate="tanh") if self.is_gemma else F.silu(gate)
        y = self.linear(gate * self.linear(y, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj")
        return x + (self.rms_norm(y, f"{name}.post_feedforward_layernorm") if adds_normed else y)

    def norm(self, r, place):
        if self.keys["recalibrator.norm"] != place:
            return r
        return F.layer_norm(r, r.shape[-1:], self.w["norm.weight"], self.w["norm.bias"], 1e-5)

    def __call__(self, x, positions=None):
        if positions is None or self.keys["recalibrator.new_positions"]:
            positions = torch.arange(len(x))
        for index in range(self.blocks):
            x = self.block(x, f"blocks.{index}", positions)
        return self.norm(self.linear(self.norm(x, "before"), "proj_post"), "after")


class Sample:
    """One sample as both models take it: the student's side from transformers, the teacher's from the cache."""

    def __init__(self, row, student, teacher=None, answers="all"):
        self.messages, self.images = json.loads(row["messages"]), images_of(row)
        self.inputs = student.inputs(self.messages, self.images)
        self.ids = self.inputs["input_ids"][0]
        self.answers = student.answers(self.messages, self.images)
        self.teacher_ids = torch.tensor(row["input_ids"])
        self.teacher_answers = [(turn["answer_start"], turn["answer_start"] + turn["num_answer_tokens"])
                                for turn in row["turns"] if turn["num_answer_tokens"]]
        assert len(self.answers) == len(self.teacher_answers)
        learnt = [said for said in self.messages if said["role"] == "assistant" and not said.get("skip_loss")]
        texts = ["".join(part["text"] for part in said["content"]) for said in learnt]
        if answers == "last":
            self.answers, self.teacher_answers, texts = self.answers[-1:], self.teacher_answers[-1:], texts[-1:]
        # With the teacher's tokenizer: where both models begin a token.
        self.starts = [common_starts(student, self.ids, ours, teacher, self.teacher_ids, theirs, text)
                       for ours, theirs, text in zip(self.answers, self.teacher_answers, texts) if teacher]
        self.z = torch.full((len(self.teacher_ids), len(row["features"][0])), float("nan"))
        self.z[row["positions"]] = torch.tensor(row["features"])
        self.is_complete = not self.z[:self.teacher_answers[-1][1]].isnan().any().item()

    def assert_teacher(self, teacher):
        """Tokens, answers and features of the cache are those that transformers has."""
        inputs = teacher.inputs(self.messages, self.images)
        assert inputs["input_ids"][0].tolist() == self.teacher_ids.tolist(), "the teacher's tokens"
        assert self.is_complete, "features of all tokens"
        assert teacher.answers(self.messages, self.images) == self.teacher_answers, "the teacher's answer spans"
        with torch.no_grad():
            error = (teacher.features(inputs) - self.z).abs().max().item()
        assert error < 2e-4, f"the teacher's features differ by {error}"
        return self


def said_before(peer, ids, span, answer):
    """For each token of an answer, the text of the tokens before it, without the space that a template may put there."""
    said = [peer.tokenizer.decode(ids[span[0]:token]).lstrip() for token in range(*span)]
    # An unknown token may be several characters: those of the answer that stand between what is known.
    known = "(.+?)".join(map(re.escape, said[-1].split("<unk>")))
    found = re.fullmatch(known, answer.strip(), re.DOTALL)
    for unknown in found.groups() if found else ():
        said = [text.replace("<unk>", unknown, 1) for text in said]
    return said


def common_starts(student, ids, ours, teacher, teacher_ids, theirs, answer):
    """Tokens of one answer, ours and the teacher's, that begin at the same character of it."""
    def starts(peer, ids, span):
        return {len(text): token for text, token in zip(said_before(peer, ids, span, answer), range(*span))} | {0: span[0]}

    ours, theirs = starts(student, ids, ours), starts(teacher, teacher_ids, theirs)
    return [(ours[at], theirs[at]) for at in sorted(ours.keys() & theirs.keys())]


def answer_rows(rec, head, sample, start, end):
    """What the Recalibrator sees of tokens `start` to `end` of the teacher's answer."""
    if rec.keys["recalibrator.answer"] == "tokens":
        rows = head[sample.teacher_ids[start:end]]
        return rec.linear(rows / rows.square().mean(-1, keepdim=True).sqrt(), "proj_pre")
    return rec.linear(sample.z[start:end], "proj_pre")


def through_recalibrator(rec, head, sample, questions, spans, positions=None):
    """What comes out for each scored token, the tokens, and the teacher's rows that predict them.

    `questions` stand for all that is no answer, and `spans` are the answers among them; `positions` are those of the answers
    where each row keeps its own, the teacher's unless they are given."""
    parts, places, scored, targets, length, before = [], [], [], [], 0, 0
    positions = positions or [start for start, _ in sample.teacher_answers]
    skipped = 0 if rec.keys["loss.score_boundary"] else 1
    for (start, end), (answer_start, answer_end), position in zip(spans, sample.teacher_answers, positions):
        parts.append(questions[before:start])
        places += range(before, start)
        length += start - before
        count = answer_end - answer_start
        scored += range(length - 1 + skipped, length - 1 + count)
        targets += range(answer_start + skipped, answer_end)
        parts.append(answer_rows(rec, head, sample, answer_start, answer_end))
        places += range(position, position + count)
        length += count
        before = end
    return rec(torch.cat(parts), torch.tensor(places))[scored], targets, [target - 1 for target in targets]


def predictions(rec, r, head, sample, targets, teacher_rows):
    """CE and KL of features `r` for the teacher's tokens `targets`, which its features `teacher_rows` predict."""
    temperature = rec.keys["loss.temperature"]
    logits, teacher = (rows.to(rec.precision) @ head.T.to(rec.precision) for rows in (r, sample.z[teacher_rows]))
    ce = F.cross_entropy(logits, sample.teacher_ids[targets], reduction="sum")
    log_q, log_p = ((rows / temperature).log_softmax(-1) for rows in (logits, teacher))
    return ce, F.kl_div(log_q, log_p, reduction="sum", log_target=True) * temperature**2


def from_student_answers(rec, sample, features):
    """As `through_recalibrator`, from the student's features of questions and answers, where both models begin a token."""
    skipped = 0 if rec.keys["loss.score_boundary"] else 1
    pairs = [pair for starts in sample.starts for pair in starts[skipped:]]
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return rec(features)[[token - 1 for token in ours]], theirs, [token - 1 for token in theirs]


def pooled(sample):
    """The teacher's sequence with two rows for each question, its mean without the last row and that one; its answers there."""
    rows, spans, before = [], [], 0
    for start, end in sample.teacher_answers:
        rows += [sample.z[before:start - 1].mean(0)] if start - 1 > before else []
        rows.append(sample.z[start - 1])
        spans.append((len(rows), len(rows) + end - start))
        rows += sample.z[start:end]
        before = end
    return torch.stack(rows), spans


def regularisation_terms(sample, rec, head):
    """A2's terms."""
    keys = rec.keys
    rows, spans = pooled(sample) if keys["loss.regularisation_question"] == "pooled" else (sample.z, sample.teacher_answers)
    rows = rows[:spans[-1][1]]
    positions = [start for start, _ in spans]
    r, targets, teacher_rows = through_recalibrator(rec, head, sample, rec.linear(rows, "proj_pre"), spans, positions)
    weight, form, count = keys["loss.regularisation"], keys["loss.regulariser"], len(targets)
    if form == "mse":
        error = (r - sample.z[teacher_rows]).square().mean(-1).sum()
        return {"mse_regularisation": (error, count, weight)}
    ce, kl = predictions(rec, r, head, sample, targets, teacher_rows)
    return {"ce_regularisation": (ce, count, weight * keys["loss.ce_teacher"] * ("ce" in form)),
            "kl_regularisation": (kl, count, weight * keys["loss.kl"] * ("kl" in form))}


def terms_of(stage, sample, student, rec, head):
    """Name of each loss term: its sum over one sample's tokens, their number, and the term's weight."""
    terms, keys = {}, rec.keys
    features = student.features(sample.inputs)
    if stage != "finetune":
        if keys["recalibrator.answer"] == "student":
            r, targets, teacher_rows = from_student_answers(rec, sample, features)
        else:
            r, targets, teacher_rows = through_recalibrator(rec, head, sample, features, sample.answers)
        ce, kl = predictions(rec, r, head, sample, targets, teacher_rows)
        terms |= {"ce_teacher": (ce, len(targets), keys["loss.ce_teacher"]), "kl": (kl, len(targets), keys["loss.kl"])}
    if stage == "align" and keys["align.regularisation"] and sample.is_complete:
        terms |= regularisation_terms(sample, rec, head)
    if stage != "align":
        terms["ce_student"] = student_term(rec, sample, features, student)
    return terms


def student_term(rec, sample, features, student):
    """The cross entropy of the student's own head."""
    rows = [token - 1 for start, end in sample.answers for token in range(start, end)]
    logits = features[rows].to(rec.precision) @ student.head().T.to(rec.precision)
    ce = F.cross_entropy(logits, sample.ids[[row + 1 for row in rows]], reduction="sum")
    return ce, len(rows), rec.keys["loss.ce_student"]


def means_of(samples, terms_of):
    """The means of the loss terms that `terms_of` finds in each sample; gradients are left in the weights."""
    counts, means = {}, {}
    with torch.no_grad():
        for sample in samples:
            for name, (_, count, _) in terms_of(sample).items():
                counts[name] = counts.get(name, 0) + count
    loss = 0.0
    for sample in samples:
        terms = terms_of(sample)
        total = sum(value * weight / max(counts[name], 1) for name, (value, _, weight) in terms.items())
        if torch.is_tensor(total) and total.requires_grad:
            total.backward()
        loss += float(total.detach()) if torch.is_tensor(total) else total
        for name, (value, _, _) in terms.items():
            means[name] = means.get(name, 0.0) + value.item() / max(counts[name], 1)
    return {"loss": loss, **means}


def torch_step(stage, samples, student, rec, head):
    """The means of a stage's loss terms; gradients are left in the weights."""
    return means_of(samples, lambda sample: terms_of(stage, sample, student, rec, head))
