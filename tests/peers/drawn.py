"""What `vary_step.py` draws: a pair of checkouts, their cache, and the keys of a run."""

import json
import random

import torch
from safetensors.torch import load_file, save_file

import vary
from peer import cache_rows

TEXT = ["qwen2_text", "qwen3_text", "llama_text", "mistral_text", "mistral_window_text", "qwen2_long_text"]
FAMILIES = [family for family in vary.FAMILIES if family != "internvl_chat"] + TEXT
METHODS = ["kd", "uld", "multilevel_ot", "alm", "dskd", "sft"]
UPDATES = 3
# No weight moves, and two steps, because the last one leaves no checkpoint.
STILL = {"steps": 2, "lr": 1e-30, "lr_end": 1e-30, "warmup": 0.0, "clip": 0.0, "beta1": 0.9, "weight_decay": 0.0}


def massive(norm, head, rng):
    """One channel of the features is 500 times as large as the others, as those of large models are; the head may make up for it."""
    channel, kept = rng.randrange(len(norm)), rng.random() < 0.5
    norm[channel] *= 500
    head[:, channel] /= 1 if kept else 500


def equal(norm, head, rng):
    """All logits of a token are one number."""
    head[:] = head[0].clone()


def scaled(by):
    def change(norm, head, rng):
        """Logits so large that nothing but their largest counts, or so small that all are alike."""
        head *= by

    return change


HARD = {"plain": lambda norm, head, rng: None, "massive": massive, "equal": equal, "large": scaled(300), "small": scaled(1e-3), "none": scaled(1e-9)}


def harden(checkout, change, rng):
    """Changes a checkout's final norm and head; not one that is the input embedding as well, which then spoils all blocks."""
    path = checkout / "model.safetensors"
    weights = load_file(path)
    head = [weight for name, weight in weights.items() if name.endswith("lm_head.weight")]
    norm = next(weight for name, weight in weights.items() if name.endswith(".norm.weight") and "vision" not in name)
    if head:
        change(norm, head[0], rng)
        save_file(weights, path, metadata={"format": "pt"})


class Setup:
    """Everything about one round that its seed decides; `held` are values that are not drawn."""

    def __init__(self, seed, build, held):
        self.rng, self.build, self.held = random.Random(f"vary_step {seed}"), build, held
        rng = self.rng
        pick = lambda name, choices: held[name] if name in held else rng.choice(choices)
        self.student_family = pick("student", FAMILIES)
        self.method = pick("method", ["genrecal"] * 8 + METHODS)
        stages = {"genrecal": ["align", "distill", "distill", "finetune"], "sft": ["distill", "finetune"]}
        self.stage = pick("stage", stages.get(self.method, ["distill"]))
        # One vocabulary: the same tokenizer, in a model of another size.
        self.teacher_family = self.student_family if self.method == "kd" else pick("teacher", FAMILIES)
        self.is_text = any(family.endswith("_text") for family in (self.student_family, self.teacher_family))
        self.is_suffixed = "paligemma" in (self.student_family, self.teacher_family)
        if self.is_text and self.is_suffixed:
            self.teacher_family = self.student_family
            self.is_text = self.student_family.endswith("_text")
            self.is_suffixed = not self.is_text
        self.head_type = rng.choice([torch.float32, torch.bfloat16])
        self.padding = [rng.choice([0, 0, 3, 14, 90, 90, 150_000 if rng.random() < 0.3 else 0]) for _ in range(2)]
        self.count = rng.choice([1, 3, 4, 5])
        self.lora_scale = 1.0
        # Inputs that are hard on float32, for a third of the rounds: what becomes of either model's last weights, and the temperature.
        self.hard = {name: pick(f"hard_{name}", list(HARD)) for name in ("student", "teacher")} if pick("hard", [True, False, False]) else {}
        # Which of equal probabilities comes first decides a gradient of the two that sort, and nothing decides which.
        if self.method in ("uld", "multilevel_ot") and self.is_flat:
            self.hard = {}
        self.keys = self.drawn_keys()
        if self.hard:
            self.keys["loss.temperature"] = rng.choice([0.05, 1.0, 20.0, 100.0])
        for name, value in held.items():
            if "." in name:
                self.keys[name] = json.loads(value)

    @property
    def is_flat(self):
        """Whether a model's logits are all alike, so that what reaches its features cancels."""
        return not {"equal", "none"}.isdisjoint(self.hard.values())

    def drawn_keys(self):
        rng, stage = self.rng, self.stage
        weight = lambda: rng.choice([1.0, 1.0, 0.0, 0.3, 2.5])
        keys = {
            "seed": rng.randrange(1000), "eval.holdout": 0, "checkpoint.every": 1, "checkpoint.keep": 9, "data.max_bad": 0.9,
            "data.answers": rng.choice(["all", "all", "last"]), "memory.recompute": rng.choice(["always", "never"]),
            "memory.optimizer": rng.choice(["f32", "f32", "f32", "bf16", "f8"]),
            "loss.ce_student": weight(), "loss.temperature": rng.choice([1.0, 1.0, 0.5, 2.0, 7.0]),
            "ema.decay": rng.choice([0.0, 0.0, 0.5, 0.9]), "ema.export": rng.random() < 0.7,
        }
        keys |= {f"{stage}.{name}": value for name, value in (
            ("steps", UPDATES), ("lr", rng.choice([1e-3, 1e-2])), ("lr_end", rng.choice([0.0, 1e-3, 1e-4])), ("warmup", rng.choice([0.0, 0.3, 0.6])),
            ("clip", rng.choice([0.0, 0.1, 1.0, 100.0])), ("beta1", rng.choice([0.0, 0.5, 0.9])), ("beta2", rng.choice([0.5, 0.95, 0.999])),
            ("epsilon", rng.choice([1e-8, 1e-6, 1e-3])), ("weight_decay", rng.choice([0.0, 0.01, 1.0])),
            ("microbatch_tokens", rng.choice([1, 100, 300, 4096])))}
        if self.method == "genrecal" and stage != "finetune":
            keys |= {"loss.ce_teacher": weight(), "loss.kl": weight(), "loss.score_boundary": rng.random() < 0.7}
            keys |= {f"recalibrator.{name}": value for name, value in (
                ("answer", rng.choice(["features", "features", "tokens", "student"])), ("depth", rng.choice([1, 2, 3])),
                ("init_std", rng.choice([0.02, 0.2])), ("new_positions", rng.random() < 0.6), ("norm", rng.choice(["after", "before", "none"])),
                ("projection_bias", rng.random() < 0.5), ("init", rng.choice(["fresh", "fresh", "copy"])))}
            if keys["recalibrator.init"] == "copy":
                keys["recalibrator.depth"] = 1
        if stage == "align":
            keys |= {"align.regularisation": rng.random() < 0.8, "loss.regulariser": rng.choice(["ce_kl", "ce", "kl", "mse"]),
                     "loss.regularisation": weight(), "loss.regularisation_question": rng.choice(["all", "pooled"]),
                     "align.keep_student_features": rng.choice(["auto", "always", "never"])}
            # A squared error of weight 0 has no gradient, and its weights no decay.
            if keys["loss.regulariser"] == "mse":
                keys["loss.regularisation"] = 0.7
        if self.method not in ("genrecal", "sft"):
            keys |= {"loss.method": rng.choice([1.0, 0.3, 2.5])}
        keys |= self.drawn_method()
        if stage != "align":
            self.draw_parts(keys)
        return keys

    def drawn_method(self):
        rng = self.rng
        drawn = {"kd": {"kd.divergence": rng.choice(["forward", "reverse", "jsd"]), "kd.top_k": rng.choice([0, 1, 3, 50, 5000])},
                 "multilevel_ot": {"multilevel_ot.top_k": rng.choice([1, 5, 50, 5000]), "multilevel_ot.logarithm": rng.choice([0.0, 0.1, 1.0]),
                                   "multilevel_ot.sinkhorn": rng.choice([0.0, 0.1, 1.0]), "multilevel_ot.regularisation": rng.choice([0.1, 1.0]),
                                   "multilevel_ot.iterations": rng.choice([1, 3, 20])},
                 "alm": {"alm.temperature": rng.choice([1.0, 10.0, 100.0])}}
        return drawn.get(self.method, {})

    def draw_parts(self, keys):
        """What of the student trains: parts, or adapters."""
        rng, stage = self.rng, self.stage
        parts = ["body", "head"] if self.student_family.endswith("_text") else ["vision", "projector", "body", "head"]
        train = [part for part in parts if rng.random() < 0.6] or ["body"]
        if rng.random() < 0.25:
            rank, alpha = rng.choice([1, 3, 8]), rng.choice([1.0, 6.0])
            train = [part for part in train if part in ("vision", "projector")]
            self.lora_scale = alpha / rank
            keys[f"{stage}.lora.rank"], keys[f"{stage}.lora.alpha"] = rank, alpha
            keys[f"{stage}.lora.linears"] = rng.choice([["*_proj"], ["q_proj", "mlp.*"], ["down_proj"]])
        elif self.method == "genrecal" and stage == "distill" and rng.random() < 0.15:
            train = []
        keys[f"{stage}.train"] = train
        if self.method == "genrecal" and stage == "distill" and (train or f"{stage}.lora.rank" in keys):
            keys["distill.freeze_recalibrator"] = rng.random() < 0.2

    def make(self, folder):
        """Checkouts, rows and cache."""
        rng = self.rng
        for name, family, padding in (("student", self.student_family, self.padding[0]), ("teacher", self.teacher_family, self.padding[1])):
            dtype = self.head_type if name == "teacher" else torch.float32
            vary.make_checkout(family, folder / name, rng, padding, dtype)
            if self.hard:
                harden(folder / name, HARD[self.hard[name]], rng)
        rows = vary.make_rows("paligemma" if self.is_suffixed else "any", folder, rng, self.count, [0] if self.is_text else None,
                              rng.choice([1, 8, 20]))
        (folder / "data.json").write_text(json.dumps([self.as_messages(row) for row in rows]))
        complete = rng.choice([0, 2, len(rows), len(rows)])
        if complete == 0 and self.stage == "align":
            self.keys["align.regularisation"] = False
        vary.run("run", self.build, folder / "teacher", folder / "data.json", "--dtype", "f32", "--out", folder / "cache",
                 "--features-all-for", complete, "--embed-images")
        assert cache_rows(folder / "cache"), "nothing was extracted"
        # Equal rows are one sample, which a step takes once.
        self.keys[f"{self.stage}.batch_size"] = len(cache_rows(folder / "cache"))

    def as_messages(self, row):
        """The row as chat messages, where an answer that is not the only one may have the weight 0."""
        roles = {"human": "user", "gpt": "assistant"}
        messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        if len(messages) > 2 and self.rng.random() < 0.4:
            messages[self.rng.randrange(1, len(messages), 2)]["weight"] = 0
        return {"images": row["images"], "messages": messages}

    def logits_scale(self, twin):
        """About the largest logit of either head, or 1."""
        sizes = [(sample.z.nan_to_num() @ twin.head.T).abs().max().item() for sample in twin.samples]
        with torch.no_grad():
            sizes += [(twin.student.features(sample.inputs) @ twin.student.head().T).abs().max().item() for sample in twin.samples]
        return max(1.0, *sizes)

    def __str__(self):
        quiet = ("checkpoint.", "eval.", "seed", "data.max_bad")
        keys = " ".join(f"{name}={value}" for name, value in self.keys.items() if not name.startswith(quiet))
        return f"{self.method} {self.stage} {self.teacher_family} -> {self.student_family} ({self.head_type}) {self.hard or ''} {keys}"
