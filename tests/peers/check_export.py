"""An exported student in transformers: loads without a warning about weights, same features, same greedy answers.

Our side comes from the programs alone: `extract run` with the export as its teacher gives the features, `distill eval`
the answers.

  python tests/peers/check_export.py --model EXPORT --data FILE [--image-root DIR] [--rows 32] [--build debug]
"""

import argparse
import json
import pathlib
import tempfile

import torch
from PIL import Image

from peer import Peer, cache_rows, images_of, program

MAX_NEW_TOKENS = 24


def check_features(peer, cache):
    """The worst difference over all tokens of all samples."""
    worst = 0.0
    for row in cache_rows(cache):
        inputs = peer.inputs(json.loads(row["messages"]), images_of(row))
        assert inputs["input_ids"][0].tolist() == row["input_ids"], f"tokens of {row['key']}"
        worst = max(worst, (peer.features(inputs) - torch.tensor(row["features"])).abs().max().item())
    return worst


def check_answer(peer, prediction):
    """Compares the answer to a row's first question."""
    images = [Image.open(path).convert("RGB") for path in prediction["images"]]
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": prediction["question"]}]
    inputs = peer.inputs([{"role": "user", "content": content}], images, question=True)
    tokens = peer.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=sorted(peer.ends),
                                 pad_token_id=min(peer.ends))[0][inputs["input_ids"].shape[1]:]
    answer = peer.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert answer == prediction["prediction"], f"{prediction['question']!r}: {answer!r}, ours {prediction['prediction']!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-root")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--build", default="release")
    args = parser.parse_args()
    peer = Peer(args.model)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        rows = json.loads(pathlib.Path(args.data).read_text())[: args.rows]
        data = pathlib.Path(folder, "data.json")
        data.write_text(json.dumps(rows))
        given = ["--data", data, "--image-root", args.image_root or pathlib.Path(args.data).resolve().parent]
        cache, results = pathlib.Path(folder, "cache"), pathlib.Path(folder, "eval")
        program("extract", args.build, "run", "--teacher", args.model, *given, "--out", cache, "--features", "all",
                "--embed-images", "--dtype", "f32")
        worst = check_features(peer, cache)
        assert worst < 2e-4, f"features differ by {worst}"
        program("distill", args.build, "eval", "--model", args.model, *given, "--out", results,
                "--max-new-tokens", MAX_NEW_TOKENS)
        predictions = [json.loads(line) for line in (results / "predictions.jsonl").read_text().splitlines()]
        first = [prediction for prediction in predictions if prediction["turn"] == 0]
        for prediction in first:
            check_answer(peer, prediction)
    print(f"{args.model}: features within {worst:.1e}, {len(first)} greedy answers equal")


if __name__ == "__main__":
    main()
