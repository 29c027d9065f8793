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
from safetensors.torch import load_file

from peer import Peer, cache_rows, program
from twin import Recalibrator, Sample, torch_step

BETA1 = 0.9
STAGES = ["align", "distill", "finetune"]
TERMS = ["loss", "ce_teacher", "kl", "ce_regularisation", "kl_regularisation", "ce_student"]
RUN_KEYS = [f"{stage}.{key}" for stage in STAGES
            for key in ("steps=1", "lr=1e-30", "lr_end=1e-30", "warmup=0.0", "clip=0.0", "batch_size=1000")]
RUN_KEYS += ["finetune.train=['vision','projector','body','head']", "eval.holdout=0", "checkpoint.every=1", "checkpoint.keep=9"]
# The second run: three updates a stage, with decay on matrices and a norm that is cut.
RATE, DECAY, CLIP, NUM_UPDATES = 1e-3, 0.1, 1.0, 3
UPDATE_KEYS = [f"{stage}.{key}" for stage in STAGES
               for key in (f"steps={NUM_UPDATES}", f"lr={RATE}", f"lr_end={RATE}", "warmup=0.0", f"clip={CLIP}",
                           f"weight_decay={DECAY}", "batch_size=1000")]
UPDATE_KEYS += ["finetune.train=['vision','projector','body','head']", "eval.holdout=0", "eval.every=1000"]
# The one step of each stage.
STEPS = dict(zip(STAGES, (1, 2, 3)))


def torch_name(ours, names):
    """The transformers parameter that a name of the hub's layout means."""
    bare = ours.removeprefix("language_model.").removeprefix("model.")
    ends = [name for name in names if name == ours or name == bare or name.endswith("." + bare)]
    # CLIP's blocks end as a decoder's do.
    ends = [name for name in ends if ("vision" in name) == ("vision" in ours)]
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
        samples = [Sample(row, student, teacher).assert_teacher(teacher) for row in cache_rows(cache)]
        head = load_file(cache / "head.safetensors")["lm_head.weight"].float()
        weights = load_file(run / "checkpoints" / "step-1" / "weights.safetensors")
        rec_weights = {name.removeprefix("recalibrator."): weight.requires_grad_()
                       for name, weight in weights.items() if name.startswith("recalibrator.")}
        rec = Recalibrator(rec_weights, student.model.config.get_text_config(), {"recalibrator.answer": args.answer})
        golden = {stage: compare(stage, STEPS[stage], run, samples, student, rec, head) for stage in STAGES}
        sets = answer + [part for key in UPDATE_KEYS for part in ("--set", key)]
        program("distill", args.build, "run", "--cache", cache, "--student", args.student, "--out", f"{folder}/updates", *sets)
        golden["updates"] = updates(f"{folder}/updates", samples, student, rec, head)
    print(f"{len(samples)} samples: three stages agree")
    if args.write:
        pathlib.Path(args.write).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
