"""The cost of one more experiment: from the cache, or with the teacher in the loop. CPU, ours on both sides.

An experiment is a pass of stage distill over the samples; its time is the processor's, of all threads. From the cache it takes the student's steps. With the teacher
in the loop the teacher also runs over the samples in every pass, and both models are in memory: its time is that
of `extract run` on them, whose teacher writes what it makes, and its memory is added. Teachers have 2, 5 and 10 times
the student's parameters.

  python tests/peers/bench_experiment.py --processor DIR --data FILE --image-root DIR [--rows 8] [--steps 2] [--threads 2]

DIR is any Qwen2-VL checkout: its tokenizer, template and image settings are taken, its weights are not.
"""

import argparse
import pathlib
import tempfile

from sized import distill_steps, extract, make_checkout, processor_seconds, rows_with_answers

STUDENT = (384, 4)
# Width and layers of the teachers, and about how many times the student they are.
TEACHERS = {2: (512, 6), 5: (768, 8), 10: (1024, 10)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--processor", "--data", "--image-root"):
        parser.add_argument(name, required=True)
    for name, default in (("--rows", 8), ("--steps", 2), ("--threads", 2)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    rows = rows_with_answers(args.data, args.rows)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        student = folder / "student"
        size = make_checkout(args.processor, student, *STUDENT)
        print(f"student of {size / 1e6:.1f} M parameters, {args.rows} samples, {args.threads} threads")
        print("| teacher / student | from the cache | teacher in the loop | time | memory |\n|---|---|---|---|---|")
        for times, shape in TEACHERS.items():
            teacher = folder / f"teacher{times}"
            ratio = make_checkout(args.processor, teacher, *shape) / size
            cache = folder / f"cache{times}"
            extracted, teacher_seconds = processor_seconds(lambda: extract(teacher, rows, args.image_root, cache, args.threads))
            seconds, peak = distill_steps(cache, student, folder / f"run{times}", args.rows, args.steps,
                                          args.threads)
            looped, looped_peak = seconds + teacher_seconds, peak + extracted["peak_rss_bytes"]
            print(f"| {ratio:.1f} | {seconds:.1f} s, {peak / 2**20:.0f} MiB | {looped:.1f} s, {looped_peak / 2**20:.0f} MiB "
                  f"| {seconds / looped:.2f} | {peak / looped_peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
