"""The terms of the methods without a Recalibrator, of one sample: the formulas of `methods.py` on both models' features."""

import methods


def pieces_of(starts, ends):
    """Pieces of an answer, each of (student, teacher) ranges within it, from the tokens where both begin and the answer's ends."""
    first = starts[0]
    bounds = [*starts, ends]
    within = lambda token, side: token - first[side]
    return [tuple((within(a[side], side), within(b[side], side)) for side in (0, 1)) for a, b in zip(bounds, bounds[1:])]


def formula_of(setup):
    """The method's formula, and the weights of its terms."""
    key = lambda name: setup.keys[name]
    t = key("loss.temperature")
    match setup.method:
        case "kd":
            return methods.kd(key("kd.divergence"), key("kd.top_k"), t), (1.0,)
        case "uld":
            return methods.uld(t), (1.0,)
        case "multilevel_ot":
            top_k, epsilon, iterations = (key(f"multilevel_ot.{name}") for name in ("top_k", "regularisation", "iterations"))
            return methods.multilevel_ot(t, top_k, epsilon, iterations), (1.0, key("multilevel_ot.logarithm"), key("multilevel_ot.sinkhorn"))
        case "alm":
            return methods.alm(key("alm.temperature")), (1.0,)
        case "dskd":
            return methods.dskd(t), (1.0, 1.0, 1.0)


def method_terms(twin, sample, features):
    """Name of each term: its sum, the units of the method's loss, and the term's weight; and the whole as `method`."""
    rows, teacher_rows = ([token for start, end in spans for token in range(start, end)] for spans in (sample.answers, sample.teacher_answers))
    before, teacher_before = ([token - 1 for token in tokens] for tokens in (rows, teacher_rows))
    lengths = [(0, end - start, last - first) for (start, end), (first, last) in zip(sample.answers, sample.teacher_answers)]
    ends = [(ours[1], theirs[1]) for ours, theirs in zip(sample.answers, sample.teacher_answers)]
    double = {name: weight.double() for name, weight in (
        ("features", features[before]), ("head", twin.student.head()), ("embedding", twin.student.model.get_input_embeddings().weight.detach()),
        ("teacher_features", sample.z[teacher_before]), ("teacher_head", twin.head))}
    x = double | {"same_features": double["teacher_features"], "same_head": double["teacher_head"], "answers": lengths,
                  "targets": sample.ids[rows], "inputs": sample.ids[before], "teacher_targets": sample.teacher_ids[teacher_rows],
                  "teacher_inputs": sample.teacher_ids[teacher_before], "pieces": [pieces_of(*pair) for pair in zip(sample.starts, ends)]}
    x |= {name.split(".")[1]: weight.double() for name, weight in twin.trained.items() if name.startswith("dskd.")}
    formula, weights = formula_of(twin.setup)
    shorter = sum(min(ours, theirs) for _, ours, theirs in lengths)
    units = {"alm": sum(map(len, x["pieces"])), "uld": shorter, "multilevel_ot": shorter}.get(twin.setup.method, len(rows))
    sums = formula(x)
    whole = sum(weight * term for weight, term in zip(weights, sums.values()))
    terms = {"method": (whole, units, twin.rec.keys["loss.method"])}
    return terms | {name: (term, units, 0.0) for name, term in sums.items()}
