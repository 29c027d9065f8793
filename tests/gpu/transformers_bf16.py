"""How far transformers' own bfloat16 is from its float32 on the fixtures: what our features on a GPU are to be no further than.

  python tests/gpu/transformers_bf16.py [--device cpu] [--json FILE]

A row for each fixture that transformers loads: relative L2 distance of the features (what the head receives) of all samples
together, from those that the fixture stores. On a machine with a GPU, `make gpu-bench` runs it there.
"""

import argparse
import json
import pathlib
import sys

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"


def distance(torch, folder, device):
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device)
    caught = {}
    model.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: caught.update(x=arguments[0]))
    difference = size = 0.0
    for path in sorted((folder / "ref").glob("*.safetensors")):
        tensors = load_file(path)
        inputs = {name.removeprefix("in."): tensor.to(device) for name, tensor in tensors.items() if name.startswith("in.")}
        inputs.pop("labels", None)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        is_image = (inputs["input_ids"] == getattr(config, "image_token_id", -1)).long()
        if config.model_type.startswith(("qwen2_vl", "qwen2_5_vl", "qwen3_vl")):
            inputs["mm_token_type_ids"] = is_image.int()
        elif config.model_type.startswith("gemma3"):
            inputs["token_type_ids"] = is_image
        with torch.inference_mode():
            model(**inputs)
        ours, expected = caught["x"][0].double().cpu(), tensors["final_hidden"].double()
        difference += float((ours - expected).square().sum())
        size += float(expected.square().sum())
    return (difference / size) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"{sys.executable} has no {error.name}", file=sys.stderr)
        sys.exit(3)
    found = {}
    for folder in sorted(path.parent.parent for path in FIXTURES.rglob("ref/samples.json")):
        name = str(folder.relative_to(FIXTURES))
        try:
            found[name] = distance(torch, folder, options.device)
        except Exception as error:  # one that transformers cannot load says nothing about the others
            reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
            print(f"transformers bf16 {name}\tskipped\t{reason}", flush=True)
            continue
        print(f"transformers bf16 {name}\t{found[name]:.1e}\ttransformers {transformers.__version__} on {options.device}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
