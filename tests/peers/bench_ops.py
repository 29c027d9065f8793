"""PyTorch's time for the operations that `cargo bench -p shared --bench layers` measures, at the same shapes.

One thread, CPU time, the best of many calls, in milliseconds:  python tests/peers/bench_ops.py
Run the Rust side with RAYON_NUM_THREADS=1 just before or after, on the same machine; only ratios mean anything.
"""

import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
T, D, I, SEGMENTS = 1280, 192, 512, 32


def best(f):
    f()
    result, spent, calls = float("inf"), 0.0, 0
    while calls < 5 or (spent < 0.7 and calls < 200):
        start = time.process_time()
        f()
        took = time.process_time() - start
        result, spent, calls = min(result, took), spent + took, calls + 1
    return 1e3 * result


def report(name, shapes, f):
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]

    def forward():
        with torch.no_grad():
            f(*inputs)

    def both():
        torch.autograd.grad(f(*inputs).sum(), inputs)

    print(f"{name:32} forward {best(forward):9.3f}   with backward {best(both):9.3f}", flush=True)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attention(q, k, v, causal):
    """(S, n, H, K) like-sized segments, as a padded batch: PyTorch's best case."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)


def head_loss(x, w, targets, p_features):
    logits = x @ w.T
    p = F.log_softmax(p_features @ w.T, -1)
    ce = F.cross_entropy(logits, targets, reduction="sum")
    return ce + F.kl_div(F.log_softmax(logits, -1), p, reduction="sum", log_target=True)


def layer(cos, sin, x, wq, wk, wv, wo, gate, up, down, n1, n2):
    y = F.rms_norm(x, (D,), n1, 1e-6)
    q = rope((y @ wq.T).view(SEGMENTS, -1, 4, 48), cos, sin)
    k = rope((y @ wk.T).view(SEGMENTS, -1, 2, 48), cos, sin)
    v = (y @ wv.T).view(SEGMENTS, -1, 2, 48)
    x = x + attention(q, k, v, True).reshape(T, D) @ wo.T
    y = F.rms_norm(x, (D,), n2, 1e-6)
    return x + (F.silu(y @ gate.T) * (y @ up.T)) @ down.T


def main():
    report("linear 1280x192->512", [(T, D), (I, D)], lambda x, w: x @ w.T)
    report("linear 256x1024->4096", [(256, 1024), (4096, 1024)], lambda x, w: x @ w.T)
    report("rms_norm 1280x192", [(T, D), (D,)], lambda x, w: F.rms_norm(x, (D,), w, 1e-6))
    report("layer_norm 1280x192", [(T, D), (D,), (D,)], lambda x, w, b: F.layer_norm(x, (D,), w, b, 1e-6))
    report("swiglu 1280x512", [(T, I), (T, I)], lambda g, u: F.silu(g) * u)
    report("gelu 1280x512", [(T, I)], F.gelu)
    report("quick_gelu 1280x512", [(T, I)], lambda x: x * torch.sigmoid(1.702 * x))
    cos, sin = torch.randn(T, 1, 48), torch.randn(T, 1, 48)
    report("rope 1280x4x48", [(T, 4, 48)], lambda x: rope(x, cos, sin))
    short = [(SEGMENTS, 40, heads, 48) for heads in (4, 2, 2)]
    report("attention 32x40 causal", short, lambda q, k, v: attention(q, k, v, True))
    long = [(1, 1024, 8, 64)] * 3
    report("attention 1x1024", long, lambda q, k, v: attention(q, k, v, False))
    report("attention 1x1024 causal", long, lambda q, k, v: attention(q, k, v, True))
    cos, sin = torch.randn(SEGMENTS, 40, 1, 48), torch.randn(SEGMENTS, 40, 1, 48)
    weights = [(192, D), (96, D), (96, D), (D, 192), (I, D), (I, D), (D, I), (D,), (D,)]
    report("decoder block 1280x192", [(T, D), *weights], lambda *a: layer(cos, sin, *a))
    targets, teacher = torch.randint(2000, (512,)), torch.randn(512, D)
    report("head loss 512x192, V 2000", [(512, D), (2000, D)], lambda x, w: head_loss(x, w, targets, teacher))


if __name__ == "__main__":
    main()
