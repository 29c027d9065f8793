"""Training that nobody chose: drawn pairs of checkouts, conversations and keys of `distill run`, beside PyTorch.

  python tests/peers/vary_step.py [--seed 1] [--rounds 20] [--build release] [KEY=VALUE...]

Each round draws a student and a teacher of `vary.py`'s families and of the decoders without images, the words and pictures they see, a
stage or a method, and the keys that decide losses, updates and memory. A first run moves no weight: its losses must be PyTorch's within
1e-5, and each trained weight's gradient within 1e-4. A second one makes three updates, which PyTorch makes too: losses, rates, the
gradient's norm, all weights, their averages and the exported student must agree. A third one with other keys of memory must be the second
again, bit for bit where these promise it. KEY=VALUE holds a key, or `student`, `teacher`, `method`, `stage`, to what is said in all rounds.
A failure names the seed, and the same seed makes it again.
"""

import argparse
import json
import math
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

import drawn
from lora import hooked
from peer import cache_rows, peer_of, program
from twin import Recalibrator, Sample, means_of, student_term, terms_of
from twin_method import method_terms

TERM, GRADIENT, WEIGHT = 1e-5, 1e-4, 3e-3
# What moments in fewer bits may change of all updates together: their mantissas have 8 bits, and 4 or 5.
ROUNDED = {"bf16": 0.01, "f8": 0.25}


class Run:
    """A finished `distill run` with some keys."""

    def __init__(self, setup, folder, name, **keys):
        self.out, self.setup = folder / name, setup
        sets = [f"{key}={json.dumps(value)}" for key, value in (setup.keys | keys).items()]
        program("distill", setup.build, "run", "--device", "cpu", "--cache", folder / "cache", "--student", folder / "student", "--out", self.out,
                "--method", setup.method, "--stages", setup.stage, *(part for key in sets for part in ("--set", key)))
        self.metrics = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def checkpoint(self, step, file):
        return load_file(self.out / "checkpoints" / f"step-{step}" / f"{file}.safetensors")


class Twin:
    """The student, the Recalibrator and whatever else trains, as PyTorch has them at the beginning of a run."""

    def __init__(self, setup, folder, run):
        self.setup, keys = setup, setup.keys
        self.student = peer_of(folder / "student")
        self.student.model.requires_grad_(False)
        teacher = transformers.AutoProcessor.from_pretrained(folder / "teacher")
        teacher = argparse.Namespace(tokenizer=getattr(teacher, "tokenizer", teacher))
        self.samples = [Sample(row, self.student, teacher, keys.get("data.answers", "all")) for row in cache_rows(folder / "cache")]
        self.head = load_file(folder / "cache/head.safetensors")["lm_head.weight"].float()
        begun = run.checkpoint(1, "weights")
        self.trained = {}
        by_value = {fingerprint(weight): weight for weight in self.student.model.parameters()}
        for name, weight in begun.items():
            mine = by_value.get(fingerprint(weight)) if name.startswith("student.") and "lora_" not in name else weight
            assert mine is not None, f"{name} is none of transformers' weights"
            self.trained[name] = mine.requires_grad_()
        # What a stage leaves has the Recalibrator also where it is frozen.
        left = run.out / "stages" / setup.stage / "recalibrator.safetensors"
        rec = load_file(left) if left.exists() else {}
        if keys.get("recalibrator.init") == "copy":
            assert all(fingerprint(weight) in by_value for name, weight in rec.items() if name.startswith("blocks.")), "blocks are not the student's"
        rec |= {name.removeprefix("recalibrator."): weight for name, weight in self.trained.items() if name.startswith("recalibrator.")}
        # Without a Recalibrator it holds the keys alone.
        self.rec = Recalibrator(rec, self.student.model.config.get_text_config(), keys, torch.float64)
        adapters = {name.removeprefix("student.").removesuffix(".lora_A.weight"): (weight, self.trained[name.replace("lora_A", "lora_B")])
                    for name, weight in self.trained.items() if name.endswith("lora_A.weight")}
        self.layers = hooked(self.student.model, adapters, setup.lora_scale) if adapters else {}

    def terms(self, sample):
        setup = self.setup
        if setup.stage == "finetune" or setup.method == "genrecal":
            return terms_of(setup.stage, sample, self.student, self.rec, self.head)
        features = self.student.features(sample.inputs)
        terms = {"ce_student": student_term(self.rec, sample, features, self.student)}
        return terms | (method_terms(self, sample, features) if setup.method != "sft" else {})

    def step(self):
        for weight in self.trained.values():
            weight.grad = None
        return means_of(self.samples, self.terms)


def fingerprint(weight):
    """Equal for equal values, whatever the shape; a weight of 0 that moved by 1e-30 is 0."""
    values = weight.detach().float().contiguous().view(-1)
    return torch.where(values.abs() < 1e-25, 0.0, values).numpy().tobytes()


def assert_terms(where, row, wanted, scale, tolerance=TERM):
    """Each loss term, within a part of its size and what float32 loses of logits as large as `scale`."""
    worst = 0.0
    for name, value in wanted.items():
        ours = row["method_terms"][name] if name in row.get("method_terms", {}) else row[name]
        allowed = tolerance * abs(value) + 1e-6 * scale
        assert abs(ours - value) <= allowed, f"{where}: {name} is {ours}, PyTorch {value}"
        worst = max(worst, abs(ours - value) / max(abs(value), 1e-3))
    return worst


def assert_gradients(twin, moments, tolerance, floor):
    """Each trained weight's gradient, from AdamW's first moment after one step; `floor` where all of it may cancel."""
    ours = {name[2:]: moment / (1 - drawn.STILL["beta1"]) for name, moment in moments.items() if name.startswith("m.")}
    assert ours.keys() == twin.trained.keys()
    norm, worst = math.sqrt(sum(g.double().square().sum().item() for g in ours.values())), 0.0
    for name, weight in twin.trained.items():
        theirs = torch.zeros_like(weight) if weight.grad is None else weight.grad
        error = (ours[name].reshape(theirs.shape).double() - theirs.double()).norm().item()
        # A key's bias has no effect under softmax: its gradient is noise, so a part of the whole norm is allowed.
        size = theirs.double().norm().item()
        assert error <= tolerance * size + 2e-6 * norm + floor, f"gradient of {name}, of size {size:.2e} of {norm:.2e}, is off by {error:.2e}"
        worst = max(worst, error / (size + 1e-2 * norm + 1e-30))
    return worst


def rate(setup, step):
    """Linear warm-up, then a line to `lr_end` at the last step."""
    lr, end, warmup = (setup.keys[f"{setup.stage}.{key}"] for key in ("lr", "lr_end", "warmup"))
    rising = math.ceil(warmup * drawn.UPDATES)
    if step < rising:
        return lr * (step + 1) / rising
    first = max(rising - 1, 0)
    return lr + (end - lr) * (step - first) / max(drawn.UPDATES - 1 - first, 1)


def updates(setup, twin, run, scale):
    """PyTorch's three updates beside the run's; weights must agree where their gradients are more than noise."""
    key = lambda name: setup.keys[f"{setup.stage}.{name}"]
    weights, decay = twin.trained, setup.keys.get("ema.decay", 0.0)
    groups = [{"params": [w for w in weights.values() if (w.dim() > 1) == is_matrix], "weight_decay": decayed}
              for is_matrix, decayed in ((True, key("weight_decay")), (False, 0.0))]
    optimizer = torch.optim.AdamW(groups, betas=(key("beta1"), key("beta2")), eps=key("epsilon"))
    begun = {name: weight.detach().clone() for name, weight in weights.items()}
    averages = {name: weight.clone() for name, weight in begun.items()}
    # Where a gradient is noise beside the others of its weight, so is the direction that Adam takes.
    clear = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    worst, after = 0.0, {}
    for step in range(drawn.UPDATES):
        wanted = twin.step()
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        norm = torch.stack([g.norm() for g in gradients.values()]).norm().item() if gradients else 0.0
        for name, g in gradients.items():
            clear[name] &= (g.abs() > 3e-2 * g.square().mean().sqrt()) & (g.abs() > 1e-5 * norm) | (g == 0)
        if key("clip") > 0:
            torch.nn.utils.clip_grad_norm_(weights.values(), key("clip"))
        for group in optimizer.param_groups:
            group["lr"] = rate(setup, step)
        optimizer.step()
        with torch.no_grad():
            for name, weight in weights.items():
                averages[name] += (weight - averages[name]) * (1 - decay)
        row = run.metrics[step]
        # Weights whose gradients are noise go their own ways after the first one.
        tolerance = (TERM, GRADIENT, WEIGHT)[step]
        worst = max(worst, assert_terms(f"step {step + 1}", row, wanted | {"grad_norm": norm}, scale, tolerance))
        assert math.isclose(row["lr"], rate(setup, step), rel_tol=1e-9), f"rate of step {step + 1}: {row['lr']}"
        after[step + 1] = {name: weight.detach().clone() for name, weight in weights.items()}
    last = drawn.UPDATES - 1
    off = assert_moved(run.checkpoint(last, "weights"), begun, after[last], clear)
    return worst, max(off, assert_left(setup, twin, run, begun, averages if decay and setup.keys.get("ema.export", True) else after[last + 1], clear))


def assert_moved(ours, begun, theirs, clear, tolerance=WEIGHT):
    """What was added to each weight, over the clear values of it."""
    worst = 0.0
    for name, weight in ours.items():
        mask = clear[name]
        moved, wanted = (weight.reshape(mask.shape) - begun[name])[mask], (theirs[name] - begun[name])[mask]
        # The weights themselves are rounded.
        rounding = 2e-7 * begun[name][mask].norm().item()
        error = (moved - wanted).norm().item()
        assert error <= tolerance * wanted.norm().item() + rounding, f"{name} moved otherwise: off by {error:.1e} of {wanted.norm():.1e}"
        worst = max(worst, (error - rounding) / (wanted.norm().item() + 1e-30))
    return worst


def assert_left(setup, twin, run, begun, theirs, clear):
    """The checkout and the Recalibrator that the stage leaves."""
    stage, ours = run.out / "stages" / setup.stage, {}
    if (stage / "recalibrator.safetensors").exists():
        rec = load_file(stage / "recalibrator.safetensors")
        ours |= {f"recalibrator.{name}": weight for name, weight in rec.items() if f"recalibrator.{name}" in theirs}
    left = load_file(stage / "student/model.safetensors") if (stage / "student").exists() else {}
    # What is exported has the names that the checkout has.
    names = {fingerprint(weight): name for name, weight in load_file(run.out.parent / "student/model.safetensors").items()} if left else {}
    for name in theirs:
        if name.startswith("student.") and "lora_" not in name:
            ours[name] = left[names[fingerprint(begun[name])]]
    for name, layer in twin.layers.items():
        a, b = (theirs[f"student.{name}.lora_{part}.weight"] for part in "AB")
        added = setup.lora_scale * b @ a
        error = (left[names[fingerprint(layer.weight)]] - layer.weight - added).norm()
        assert error <= 2e-2 * added.norm() + 2e-7 * layer.weight.norm(), f"{name}: what was merged is off by {error / added.norm():.1e}"
    return assert_moved(ours, begun, theirs, clear)


def same_in_little_memory(setup, folder, run):
    """The third run: blocks recomputed or not, or moments in fewer bits."""
    keys, states = {"memory.recompute": "never" if setup.keys["memory.recompute"] == "always" else "always"}, setup.keys["memory.optimizer"]
    if states != "f32":
        keys = {"memory.optimizer": "f32"}
    other = Run(setup, folder, "other", **keys)
    last = drawn.UPDATES - 1
    ours, theirs = (which.checkpoint(last, "weights") for which in (run, other))
    if states == "f32":
        quiet = {"tokens_per_second", "peak_rss_bytes", "loader_stall"}
        for a, b in zip(run.metrics, other.metrics, strict=True):
            assert {k: v for k, v in a.items() if k not in quiet} == {k: v for k, v in b.items() if k not in quiet}, f"{keys}: {a} {b}"
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), f"{keys}: other weights"
        return "recomputed to the bit"
    begun = run.begun
    norm = lambda a, b: math.sqrt(sum((a[name] - b[name]).double().square().sum().item() for name in a))
    off = norm(ours, theirs) / (norm(theirs, begun) or 1.0)
    assert off < ROUNDED[states], f"{states} moves weights by {off:.1e} of an update"
    return f"{states} within {off:.1e}"


def check(seed, build, held):
    setup = drawn.Setup(seed, build, held)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        setup.make(folder)
        still = {f"{setup.stage}.{key}": value for key, value in drawn.STILL.items()} | {"memory.optimizer": "f32", "ema.decay": 0.0}
        first = Run(setup, folder, "first", **still)
        twin = Twin(setup, folder, first)
        wanted = twin.step()
        scale = setup.logits_scale(twin)
        term = assert_terms("at rest", first.metrics[0], wanted, scale)
        # An error of a logit is as large a part of a probability.
        sharpness = scale / min(1.0, setup.keys["loss.temperature"])
        tolerance = GRADIENT + 1e-6 * sharpness, 3e-5 * sharpness if setup.is_flat else 0.0
        gradient = assert_gradients(twin, first.checkpoint(1, "optimizer"), *tolerance)
        run = Run(setup, folder, "run")
        run.begun = first.checkpoint(1, "weights")
        memory = same_in_little_memory(setup, folder, run)
        if setup.keys["memory.optimizer"] != "f32":
            run = Run(setup, folder, "f32", **{"memory.optimizer": "f32"})
        # After an update of hard inputs all that was rounded decides.
        later, weight = (0.0, 0.0) if setup.hard else updates(setup, twin, run, scale)
    return f"terms {term:.0e} {later:.0e} gradients {gradient:.0e} weights {max(weight, 0):.0e}, {memory}: {len(twin.samples)} samples, {setup}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("held", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--build", default="release")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    held = dict(text.split("=", 1) for text in args.held)
    failed = []
    for seed in range(args.seed, args.seed + args.rounds):
        try:
            said = check(seed, args.build, held)
        except (Exception, SystemExit) as error:
            failed.append(seed)
            said = f"FAILED: {type(error).__name__} {error}: {drawn.Setup(seed, args.build, held)}"
        print(f"seed {seed:4}  {said}", flush=True)
    sys.exit(f"these seeds failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
