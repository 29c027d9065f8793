"""A step of stage distill beside the same step in PyTorch: same cache, student, samples and losses, on the CPU.

Both sides make the student's features, run the Recalibrator and the teacher's head, take A1 and the student's cross
entropy, go backward, clip and update with AdamW, all in float32. PyTorch takes its samples one after the other, unpadded, with
transformers' model. Each side runs in a process of its own. Only the ratio means anything.

  python tests/peers/bench_step.py --teacher DIR --student DIR --data FILE --image-root DIR [--large] [--rows 16] [--steps 5] [--threads 2]
    [--set KEY=VALUE]

With --large the student is a Qwen2-VL of about 100 M random parameters with the tokenizer and image settings of DIR, a
Qwen2-VL checkout.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def torch_side(args, folder):
    """Runs in a process of its own; prints one JSON object."""
    import torch
    from safetensors.torch import load_file

    from peer import Peer, cache_rows
    from twin import Recalibrator, Sample, terms_of

    torch.set_num_threads(args.threads)
    student = Peer(args.student, attn_implementation="sdpa")
    body = student.model.model.language_model
    for weight in student.model.parameters():
        weight.requires_grad_(False)
    for weight in body.parameters():
        weight.requires_grad_(True)
    weights = load_file(pathlib.Path(folder, "run", "stages", "align", "recalibrator.safetensors"))
    rec = Recalibrator({name: weight.requires_grad_() for name, weight in weights.items()},
                       student.model.config.get_text_config())
    head = load_file(pathlib.Path(folder, "cache", "head.safetensors"))["lm_head.weight"].float()

    samples = [Sample(row, student) for row in cache_rows(pathlib.Path(folder, "cache"))]
    tokens = sum(len(sample.ids) for sample in samples)
    scored = sum(end - start for sample in samples for start, end in sample.answers)
    trained = [*body.parameters(), *rec.w.values()]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0)
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        for sample in samples:
            terms = terms_of("distill", sample, student, rec, head)
            sum(value / scored for value, _, _ in terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens": tokens, "tokens_per_second": tokens / statistics.median(seconds), "peak_rss_bytes": peak}))


def our_side(args, folder):
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}

    def run(name, *arguments):
        command = [str(ROOT / "target" / args.build / name), *map(str, arguments), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        return json.loads(done.stdout)

    rows = json.loads(pathlib.Path(args.data).read_text())
    data = pathlib.Path(folder, "data.json")
    data.write_text(json.dumps(rows[:: max(1, len(rows) // args.rows)][: args.rows]))
    run("extract", "run", "--teacher", args.teacher, "--data", data, "--image-root", args.image_root, "--out",
        f"{folder}/cache", "--embed-images", "--dtype", "f32")
    keys = [f"{stage}.{key}" for stage in ("align", "distill")
            for key in (f"batch_size={args.rows}", "warmup=0.0", "lr=1e-5", "lr_end=1e-5")]
    keys += ["align.steps=1", "align.regularisation=false", f"distill.steps={args.steps}", "eval.holdout=0",
             "checkpoint.every=1000"]
    sets = [part for key in keys + args.set for part in ("--set", key)]
    summary = run("distill", "run", "--cache", f"{folder}/cache", "--student", args.student, "--out", f"{folder}/run",
                  "--stages", "align,distill", *sets)
    metrics = [json.loads(line) for line in pathlib.Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    speeds = [row["tokens_per_second"] for row in metrics if row["stage"] == "distill"]
    return statistics.median(speeds), summary["peak_rss_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--teacher", "--student", "--data", "--image-root"):
        parser.add_argument(name, required=True)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--build", default="release")
    parser.add_argument("--set", action="append", default=[], help="a key of our run, such as memory.optimizer=f8")
    parser.add_argument("--torch-side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_side:
        return torch_side(args, args.torch_side)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--torch-side", folder]
        if args.large:
            from bench_extract import make_teacher

            student = pathlib.Path(folder, "student")
            print(f"student of {make_teacher(args.student, student) / 1e6:.0f} M parameters")
            args.student = str(student)
            command += ["--student", args.student]
        speed, peak = our_side(args, folder)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peer = json.loads(done.stdout.splitlines()[-1])
    print(f"{peer['tokens']} student tokens a step, {args.rows} samples, {args.threads} threads")
    print(f"ours            {speed:8.0f} tokens/s   peak {peak / 2**20:6.0f} MiB")
    print(f"PyTorch         {peer['tokens_per_second']:8.0f} tokens/s   peak {peer['peak_rss_bytes'] / 2**20:6.0f} MiB")
    print(f"ours / PyTorch  {speed / peer['tokens_per_second']:8.2f}            memory {peak / peer['peak_rss_bytes']:.2f}")


if __name__ == "__main__":
    main()
