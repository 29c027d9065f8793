"""The losses of `distill/src/methods` as plain PyTorch, and the numbers that tests/tests/methods.rs holds ours to.

Each formula is written here from its paper, over whole matrices of logits in float64, and differentiated by autograd.
Inputs are random features and heads of two models with unlike widths and vocabularies, three answers in two samples.

  python tests/peers/methods.py [OUT]    default: tests/fixtures/methods/golden.safetensors
"""

import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

D_S, D_L, V_S, V_L = 6, 5, 19, 23
# (sample, tokens of the student, tokens of the teacher), and the pieces of text that both cut alike.
ANSWERS = [(0, 4, 3), (0, 2, 3), (1, 5, 4)]
PIECES = [[((0, 1), (0, 1)), ((1, 4), (1, 3))], [((0, 2), (0, 2))], [((0, 2), (0, 1)), ((2, 3), (1, 3)), ((3, 5), (3, 4))]]
TOP_K, OT_TOP_K, OT_WEIGHTS, OT_EPSILON, OT_ITERATIONS, ALM_T, ALM_LEAST = 4, 7, (0.1, 0.1), 0.1, 20, 100.0, 1e-6


def ranges(x, side):
    """(start, end) of each answer among all tokens of one side."""
    ends = torch.tensor([answer[side] for answer in x["answers"]]).cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends))


def rand(generator, *shape, scale=1.0):
    """Float32 values, so that both sides start from the same bits, as float64."""
    return (torch.randn(*shape, generator=generator) * scale).double()


def divergence(kind, p_logits, q_logits, t):
    log_p, log_q = (p_logits / t).log_softmax(-1), (q_logits / t).log_softmax(-1)
    if kind == "forward":
        value = (log_p.exp() * (log_p - log_q)).sum()
    elif kind == "reverse":
        value = (log_q.exp() * (log_q - log_p)).sum()
    else:
        m = (log_p.exp() + log_q.exp()) / 2
        value = ((log_p.exp() * (log_p - m.log())).sum() + (log_q.exp() * (log_q - m.log())).sum()) / 2
    return value * t * t


def kd(kind, top_k, t):
    def loss(x):
        logits, teacher = x["features"] @ x["head"].T, x["same_features"] @ x["same_head"].T
        vocab = min(logits.shape[1], teacher.shape[1])
        logits, teacher = logits[:, :vocab], teacher[:, :vocab]
        if 0 < top_k < vocab:
            kept = teacher.topk(top_k, -1).indices
            logits, teacher = logits.gather(1, kept), teacher.gather(1, kept)
        return {"kd": divergence(kind, teacher, logits, t)}

    return loss


def uld(t):
    def loss(x):
        total = 0.0
        for (start, end), (t_start, t_end) in zip(ranges(x, 1), ranges(x, 2)):
            for i in range(min(end - start, t_end - t_start)):
                q = (x["head"] @ x["features"][start + i] / t).softmax(-1)
                p = (x["teacher_head"] @ x["teacher_features"][t_start + i] / t).softmax(-1)
                size = max(len(p), len(q))
                p, q = (F.pad(v.sort(descending=True).values, (0, size - len(v))) for v in (p, q))
                total = total + (p - q).abs().sum()
        return {"uld": total}

    return loss


def multilevel_ot(t, top_k=OT_TOP_K, epsilon=OT_EPSILON, iterations=OT_ITERATIONS):
    def ranked(features, head, count):
        probabilities = (features @ head.T / t).softmax(-1)
        return probabilities[:, probabilities.detach().sum(0).argsort(descending=True, stable=True)[:count]]

    def loss(x):
        sums, count = [0.0, 0.0, 0.0], min(top_k, len(x["head"]), len(x["teacher_head"]))
        for (start, end), (t_start, t_end) in zip(ranges(x, 1), ranges(x, 2)):
            length = min(end - start, t_end - t_start)
            q = ranked(x["features"][start:start + length], x["head"], count)
            p = ranked(x["teacher_features"][t_start:t_start + length], x["teacher_head"], count)
            cost = torch.cdist(q, p, p=1)
            plan = (-cost / epsilon).exp()
            for _ in range(iterations):
                plan = plan / plan.sum(1, keepdim=True)
                plan = plan / plan.sum(0, keepdim=True)
            parts = (p - q).abs().sum(), -(p * q.log()).sum(), (plan * cost).sum()
            sums = [total + part for total, part in zip(sums, parts)]
        return dict(zip(("holistic_difference", "sequential_logarithm", "sinkhorn"), sums))

    return loss


def alm(t, least=ALM_LEAST):
    def loss(x):
        log_q = (x["features"] @ x["head"].T).log_softmax(-1)
        log_p = (x["teacher_features"] @ x["teacher_head"].T).log_softmax(-1)
        log_q = log_q[torch.arange(len(log_q)), x["targets"].long()]
        log_p = log_p[torch.arange(len(log_p)), x["teacher_targets"].long()]
        total = 0.0
        for (start, _), (t_start, _), pieces in zip(ranges(x, 1), ranges(x, 2), x["pieces"]):
            for (first, last), (t_first, t_last) in pieces:
                a = (log_p[t_start + t_first:t_start + t_last].sum() / t).clamp(max=math.log1p(-least)).exp()
                b = (log_q[start + first:start + last].sum() / t).clamp(max=math.log1p(-least)).exp()
                total = total + F.kl_div(torch.stack((b, 1 - b)).log(), torch.stack((a, 1 - a)), reduction="sum")
        return {"alm": total}

    return loss


def dskd(t):
    def loss(x):
        sums = [0.0, 0.0, 0.0]
        for sample in sorted({answer[0] for answer in x["answers"]}):
            own = [index for index, answer in enumerate(x["answers"]) if answer[0] == sample]
            rows, t_rows = (slice(ranges(x, side)[own[0]][0], ranges(x, side)[own[-1]][1]) for side in (1, 2))
            z, zt = x["features"][rows], x["teacher_features"][t_rows]
            target, t_target = x["targets"][rows].long(), x["teacher_targets"][t_rows].long()
            embed, t_embed = x["embedding"], x["teacher_head"]
            index = torch.cat((embed[x["inputs"][rows].long()], embed[target]), -1)
            t_next = t_embed[t_target]
            t_index = torch.cat((t_embed[x["teacher_inputs"][t_rows].long()], t_next), -1)
            scores = F.linear(index, x["query"]) @ (t_index / t_index.std()).T / t_index.shape[1] ** 0.5
            values = F.linear(zt / zt.std() + t_next / t_next.std(), x["t2s"])
            in_student = scores.softmax(-1) @ values
            in_teacher = scores.T.softmax(-1) @ F.linear(z, x["s2t"])
            head = x["head"]
            parts = (
                F.cross_entropy(in_student @ head.detach().T, target, reduction="sum"),
                divergence("forward", (in_student @ head.T).detach(), z @ head.T, t),
                divergence("forward", zt @ t_embed.T, in_teacher @ t_embed.T, t),
            )
            sums = [total + part for total, part in zip(sums, parts)]
        return dict(zip(("dskd_projection_ce", "dskd_student_kl", "dskd_teacher_kl"), sums))

    return loss


CASES = {f"kd_{kind}_{k}": (kd(kind, k, t), None) for kind, k, t in
         [("forward", 0, 1.0), ("forward", TOP_K, 2.0), ("reverse", 0, 2.0), ("jsd", 0, 1.0), ("jsd", TOP_K, 1.0)]}
CASES |= {
    "uld": (uld(1.5), None),
    "multilevel_ot": (multilevel_ot(2.0), (1.0, *OT_WEIGHTS)),
    "alm": (alm(ALM_T), None),
    "dskd": (dskd(2.0), None),
}


def main():
    generator = torch.Generator().manual_seed(11)
    n_s, n_l = (sum(answer[side] for answer in ANSWERS) for side in (1, 2))
    x = {
        "features": rand(generator, n_s, D_S), "head": rand(generator, V_S, D_S, scale=0.8),
        "embedding": rand(generator, V_S, D_S), "teacher_features": rand(generator, n_l, D_L),
        "teacher_head": rand(generator, V_L, D_L, scale=0.8),
        # For kd: a teacher of the same tokens, whose head is padded further.
        "same_features": rand(generator, n_s, D_L), "same_head": rand(generator, V_L, D_L, scale=0.8),
        "query": rand(generator, 2 * D_L, 2 * D_S, scale=0.3), "s2t": rand(generator, D_L, D_S, scale=0.3),
        "t2s": rand(generator, D_S, D_L, scale=0.3),
    }
    tensors = {name: value.float() for name, value in x.items()}
    for name, count, vocab in [("targets", n_s, V_S), ("inputs", n_s, V_S), ("teacher_targets", n_l, V_L), ("teacher_inputs", n_l, V_L)]:
        x[name] = torch.randint(vocab, (count,), generator=generator)
        tensors[name] = x[name].long()
    x |= {"answers": ANSWERS, "pieces": PIECES}
    learns = ["features", "head", "query", "s2t", "t2s"]
    for case, (formula, weights) in CASES.items():
        leaves = x | {name: x[name].clone().requires_grad_() for name in learns}
        terms = formula(leaves)
        weights = weights or (1.0,) * len(terms)
        loss = sum(weight * term for weight, term in zip(weights, terms.values()))
        loss.backward()
        tensors[f"{case}.loss"] = loss.detach()
        for name, term in terms.items():
            tensors[f"{case}.term.{name}"] = term.detach()
        for name in learns:
            if leaves[name].grad is not None:
                tensors[f"{case}.grad.{name}"] = leaves[name].grad
        print(f"{case:16} loss {loss.item():.9f}")
    default = pathlib.Path(__file__).resolve().parents[1] / "fixtures/methods/golden.safetensors"
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out)


if __name__ == "__main__":
    main()
