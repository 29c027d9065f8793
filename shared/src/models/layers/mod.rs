//! Blocks that the families share, and the only place that chooses a fused or a differentiable kernel.
