//! What an optimizer asks of the kernels.

/// The constants of one update by AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConstants {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// What is added to the second moment's root.
    pub epsilon: f32,
    /// Root of the second moment's bias correction.
    pub root_correction: f32,
    /// Rate over the first moment's bias correction.
    pub rate: f32,
    /// What the weight is multiplied by first.
    pub decay: f32,
    /// What the gradient is multiplied by first.
    pub scale: f32,
}
