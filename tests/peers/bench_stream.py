"""Extraction under a memory limit, the teacher's blocks read as they are needed, beside the same with all of them in memory.

A Qwen2-VL of about 500 M random parameters, stored in float32; the limit is a share of its weights. Both runs are the program's
own, one after the other, and their caches must be equal. The last run is the second one again, its weights out of the page cache
before, so that they come from the disk.

  python tests/peers/bench_stream.py --processor DIR --data FILE --image-root DIR [--rows 48] [--threads 2] [--share 0.25]

DIR is any Qwen2-VL checkout: its tokenizer, template and image settings are taken, its weights are not.
"""

import argparse
import pathlib
import resource
import tempfile

from page_cache import drop
from peer import cache_rows
from sized import extract, make_checkout, rows_with_answers

WIDTH, LAYERS, VISION = 1280, 20, (12, 768)
VOCABULARY = 32_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processor", required=True, type=pathlib.Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-root", required=True)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.25, help="of the weights in float32")
    options = parser.parse_args()
    rows = rows_with_answers(options.data, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        count = make_checkout(options.processor, folder / "teacher", WIDTH, LAYERS, VOCABULARY, VISION)
        limit = int(4 * count * options.share)

        def run(name, more):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            summary = extract(folder / "teacher", rows, options.image_root, folder / name, options.threads, more)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return summary, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        whole, whole_cpu = run("whole", ())
        streamed, streamed_cpu = run("streamed", ("--memory-limit", str(limit)))
        drop((folder / "teacher").glob("*.safetensors"))
        cold, _ = run("cold", ("--memory-limit", str(limit)))
        # Each run has a copy of the rows, whose name a sample and its checksum carry.
        own = {"source": None, "sample_xxh3": None}
        caches = [[row | own for row in cache_rows(folder / name)] for name in ("whole", "streamed", "cold")]
        assert caches[0] == caches[1] == caches[2], "the caches differ"
    mib, streaming = 2**20, streamed["streaming"]
    print(f"{count / 1e6:.0f} M parameters, {4 * count / mib:.0f} MiB in float32; {whole['tokens']} tokens of {whole['samples']} samples")
    print(f"in memory   {whole['tokens_per_second']:8.0f} tokens/s   peak {whole['peak_rss_bytes'] / mib:6.0f} MiB")
    print(f"streamed    {streamed['tokens_per_second']:8.0f} tokens/s   peak {streaming['peak_anonymous_bytes'] / mib:6.0f} MiB of a limit of "
          f"{limit / mib:.0f} MiB ({streamed['peak_rss_bytes'] / mib:.0f} MiB with mapped files)")
    print(f"ratio       {streamed['tokens_per_second'] / whole['tokens_per_second']:8.2f}            {streaming['passes']} passes over the weights, up to "
          f"{streaming['pass_tokens']} tokens each, in batches of up to {streaming['batch_tokens']}")
    print(f"from a disk {cold['tokens_per_second']:8.0f} tokens/s   ratio {cold['tokens_per_second'] / whole['tokens_per_second']:.2f}")
    print(f"CPU seconds {whole_cpu:.1f} in memory, {streamed_cpu:.1f} streamed: ratio {whole_cpu / streamed_cpu:.2f}, whatever else the machine does")


if __name__ == "__main__":
    main()
