"""LoRA on the student in PyTorch, beside stage distill of `distill run`: the same adapters, updates and merged weights.

A first run makes a step that moves nothing; its checkpoint has the matrices that our side begins with. A second run makes
three updates. PyTorch adds scale (x A^T) B^T to the outputs of transformers' linear layers by hooks, and makes the same
updates with its own AdamW: losses and the gradient's norm must agree, and so must the weights that the stage leaves.

  python tests/peers/lora.py --teacher DIR --student DIR --data FILE --image-root DIR [--build debug] [--write golden.json]
"""

import argparse
import json
import pathlib
import tempfile

import torch
from safetensors.torch import load_file

from peer import Peer, cache_rows, program
from twin import Recalibrator, Sample, torch_step
from twin_step import BETA1, torch_name

RANK, ALPHA, RATE, NUM_UPDATES = 3, 6.0, 1e-2, 3
KEYS = ["distill.train=[]", f"distill.lora.rank={RANK}", f"distill.lora.alpha={ALPHA}", "distill.lora.linears=['q_proj', 'mlp.*']",
        "distill.warmup=0.0", "distill.clip=0.0", "distill.batch_size=5", f"distill.steps={NUM_UPDATES}",
        "eval.holdout=0", "checkpoint.every=1", "checkpoint.keep=9"]


def hooked(model, adapters, scale=ALPHA / RANK):
    """Adds to each adapted layer's output, and nothing else changes; the layers by our names."""
    layers = {}
    for name, (a, b) in adapters.items():
        path = torch_name(f"{name}.weight", dict(model.named_parameters())).removesuffix(".weight")
        layers[name] = model.get_submodule(path)
        layers[name].register_forward_hook(lambda _, x, y, a=a, b=b: y + scale * (x[0] @ a.T) @ b.T)
    return layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--teacher", "--student", "--data", "--image-root"):
        parser.add_argument(name, required=True)
    parser.add_argument("--build", default="release")
    parser.add_argument("--write", help="keep PyTorch's numbers in this file, for the test that needs no Python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder, "cache")
        program("extract", args.build, "run", "--teacher", args.teacher, "--data", args.data, "--out", cache,
                "--image-root", args.image_root, "--features", "all", "--embed-images", "--dtype", "f32")

        def distilled(name, rate):
            out = pathlib.Path(folder, name)
            sets = [part for key in (*KEYS, f"distill.lr={rate}", f"distill.lr_end={rate}") for part in ("--set", key)]
            program("distill", args.build, "run", "--cache", cache, "--student", args.student, "--out", out, "--stages",
                    "distill", *sets)
            return out

        begun = load_file(distilled("still", 1e-30) / "checkpoints" / "step-1" / "weights.safetensors")
        run = distilled("run", RATE)
        teacher, student = Peer(args.teacher), Peer(args.student)
        samples = [Sample(row, student, teacher).assert_teacher(teacher) for row in cache_rows(cache)]
        head = load_file(cache / "head.safetensors")["lm_head.weight"].float()
        student.model.requires_grad_(False)
        weights = {name: weight.requires_grad_() for name, weight in begun.items()}
        pairs = {name.removeprefix("student.").removesuffix(".lora_A.weight"): (weight, weights[name.replace("lora_A", "lora_B")])
                 for name, weight in weights.items() if name.endswith(".lora_A.weight")}
        layers = hooked(student.model, pairs)
        rec_weights = {name.removeprefix("recalibrator."): weight for name, weight in weights.items()
                       if name.startswith("recalibrator.")}
        assert len(weights) == 2 * len(pairs) + len(rec_weights) and all(b.abs().max() < 1e-20 for _, b in pairs.values())
        rec = Recalibrator(rec_weights, student.model.config.get_text_config())
        optimizer = torch.optim.AdamW(weights.values(), lr=RATE, betas=(BETA1, 0.95), eps=1e-8, weight_decay=0.0)
        rows, golden = map(json.loads, (run / "metrics.jsonl").read_text().splitlines()), []
        for row in rows:
            optimizer.zero_grad()
            wanted = torch_step("distill", samples, student, rec, head)
            wanted["grad_norm"] = torch.stack([w.grad.norm() for w in weights.values()]).norm().item()
            optimizer.step()
            worst = max(abs(row[name] - value) / abs(value) for name, value in wanted.items())
            print(f"step {row['step']}  loss {wanted['loss']:.7f}  worst error {worst:.1e}")
            assert worst < 5e-5, f"step {row['step']}"
            golden.append({"stage": "distill", **wanted})
        left = load_file(run / "stages" / "distill" / "student" / "model.safetensors")
        worst = 0.0
        with torch.no_grad():
            for name, (a, b) in pairs.items():
                merged = layers[name].weight + (ALPHA / RANK) * b @ a
                ours = next(weight for ours, weight in left.items() if ours.endswith(f"{name.removeprefix('model.')}.weight")
                            or f"{name}.weight".endswith(ours.removeprefix("model.")))
                moved = (merged - layers[name].weight).abs().max()
                worst = max(worst, ((ours - merged).abs().max() / moved).item())
        print(f"{len(pairs)} merged weights agree, worst {worst:.1e} of what was added")
        assert worst < 1e-3 and len(golden) == NUM_UPDATES
    if args.write:
        pathlib.Path(args.write).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
