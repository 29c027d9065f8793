"""The processor's time and the peak memory of a step of stage distill as vocabulary, answers and student grow: two plots
each, as SVG.

  python tests/peers/bench_growth.py --processor DIR --data FILE --image-root DIR --out docs/growth [--rows 4] [--threads 2]

DIR is any Qwen2-VL checkout: its tokenizer, template and image settings are taken, its weights are not. Writes
OUT-vocabulary.svg, OUT-answer.svg and OUT-student.svg, and prints the numbers.
"""

import argparse
import pathlib
import tempfile

from sized import distill_steps, extract, make_checkout, rows_with_answers

STEPS = 2
# What grows in each series; the rest stays at the middle of these.
VOCABULARIES = (20_000, 40_000, 80_000, 152_064)
WORDS = (16, 64, 256, 512)
SHAPES = ((256, 4), (384, 6), (512, 8), (768, 10))
BASE_SHAPE, BASE_WORDS = (256, 4), 64


def nice(value):
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def panel(points, title, x_label, left):
    """A line over the values' own range, from zero, as SVG elements; x runs over the values' logarithms."""
    import math

    width, height, top = 250, 150, 40
    xs = [math.log(x) for x, _ in points]
    largest = max(y for _, y in points) * 1.15
    place = lambda x, y: (left + (math.log(x) - xs[0]) / (xs[-1] - xs[0]) * width, top + height - y / largest * height)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in points))
    parts = [f'<text class="title" x="{left}" y="{top - 14}">{title}</text>',
             f'<path class="axis" d="M{left} {top}V{top + height}H{left + width}"/>',
             f'<polyline class="line" points="{line}"/>',
             f'<text class="label" x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{x_label}</text>']
    for x, y in points:
        a, b = place(x, y)
        parts += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>',
                  f'<text class="value" x="{a:.1f}" y="{b - 8:.1f}" text-anchor="middle">{nice(y)}</text>',
                  f'<text class="tick" x="{a:.1f}" y="{top + height + 16}" text-anchor="middle">{x:,.0f}</text>']
    return "\n".join(parts)


STYLE = """<style>
svg { font: 12px system-ui, sans-serif; } text { fill: #333; } .title { font-weight: 600; }
.axis { fill: none; stroke: #888; } .line { fill: none; stroke: #2563a8; stroke-width: 2; } .dot { fill: #2563a8; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } .line { stroke: #7db3ec; } .dot { fill: #7db3ec; } }
</style>"""


def write_svg(path, x_label, series):
    """`series`: (x, seconds a step, bytes at the peak)."""
    times, peaks = [(x, s) for x, s, _ in series], [(x, p / 2**20) for x, _, p in series]
    words = "; ".join(f"{x:,.0f}: {s:.2f} s, {p / 2**20:.0f} MiB" for x, s, p in series)
    body = panel(times, "processor seconds a step", x_label, 50) + "\n" + panel(peaks, "peak memory, MiB", x_label, 380)
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 245" role="img">\n<title>A training step as '
                    f'the {x_label} grows</title>\n<desc>{words}</desc>\n{STYLE}\n{body}\n</svg>\n')
    print(f"{x_label}: {words}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--processor", "--data", "--image-root", "--out"):
        parser.add_argument(name, required=True)
    for name, default in (("--rows", 4), ("--threads", 2)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, made = pathlib.Path(folder), {}

        def checkout(shape, vocabulary=None):
            name = folder / f"model-{shape}-{vocabulary}"
            if name not in made:
                made[name] = make_checkout(args.processor, name, *shape, vocabulary)
            return name

        def measured(teacher, student, words):
            place = folder / str(len(list(folder.iterdir())))
            rows = rows_with_answers(args.data, args.rows, words)
            extract(teacher, rows, args.image_root, f"{place}-cache", args.threads)
            return distill_steps(f"{place}-cache", student, f"{place}-run", args.rows, STEPS, args.threads)

        base = checkout(BASE_SHAPE)
        out = lambda name: pathlib.Path(f"{args.out}-{name}.svg")
        series = [(v, *measured(checkout(BASE_SHAPE, v), base, BASE_WORDS)) for v in VOCABULARIES]
        write_svg(out("vocabulary"), "teacher's vocabulary", series)
        write_svg(out("answer"), "words of each answer", [(w, *measured(base, base, w)) for w in WORDS])
        students = [checkout(shape) for shape in SHAPES]
        series = [(made[student] / 1e6, *measured(base, student, BASE_WORDS)) for student in students]
        write_svg(out("student"), "student's parameters in millions", series)


if __name__ == "__main__":
    main()
