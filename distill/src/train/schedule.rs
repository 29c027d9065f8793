//! Learning rate over one stage: linear warm-up, then linear decay.

use crate::config::StageConfig;

/// The schedule of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    lr: f64,
    lr_end: f64,
    warmup_steps: usize,
    num_steps: usize,
}

impl Schedule {
    /// The schedule of a stage of `num_steps` steps.
    #[must_use]
    pub fn new(config: &StageConfig, num_steps: usize) -> Self {
        let warmup_steps = (config.warmup * num_steps as f64).ceil() as usize;
        Self { lr: config.lr, lr_end: config.lr_end, warmup_steps, num_steps }
    }

    /// The rate of a step, counted from 0 in its stage. It first reaches `lr` at the last warm-up step and
    /// is `lr_end` at the last step.
    #[must_use]
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let first = self.warmup_steps.saturating_sub(1);
        let span = self.num_steps.saturating_sub(1).saturating_sub(first);
        if span == 0 {
            return self.lr;
        }
        let done = (step - first) as f64 / span as f64;
        self.lr + (self.lr_end - self.lr) * done.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values by hand: the paper's line from 1e-4 to 1e-5, and a warm-up of 4 steps.
    #[test]
    fn warms_up_then_decays_in_a_line() {
        let mut config = crate::config::RunConfig::default().finetune;
        config.warmup = 0.0;
        let plain = Schedule::new(&config, 10);
        assert!((plain.at(0) - 1e-4).abs() < 1e-12);
        assert!((plain.at(9) - 1e-5).abs() < 1e-12);
        assert!((plain.at(3) - 7e-5).abs() < 1e-12);
        config.warmup = 0.4;
        let warm = Schedule::new(&config, 10);
        let rates: Vec<f64> = (0..10).map(|step| warm.at(step) * 1e5).collect();
        let expected = [2.5, 5.0, 7.5, 10.0, 8.5, 7.0, 5.5, 4.0, 2.5, 1.0];
        assert!(rates.iter().zip(expected).all(|(got, want)| (got - want).abs() < 1e-9), "{rates:?}");
    }

    #[test]
    fn one_step_takes_the_full_rate() {
        let config = crate::config::RunConfig::default().finetune;
        assert_eq!(Schedule::new(&config, 1).at(0), 1e-4);
    }
}
