//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use candle_core::Var;
use shared::models::layers::Recomputed;

use super::*;
use crate::config::{OptimizerStates, RunConfig};
use crate::train::optim::{Gradients, Param};

fn optimizer(values: &[f32]) -> AdamW {
    let var = Var::new(values, &Device::Cpu).unwrap();
    let config = (&RunConfig::default().finetune).into();
    AdamW::new(config, OptimizerStates::F32, vec![Param { name: "student.w".into(), var }]).unwrap()
}

fn step(adam: &mut AdamW) {
    let var = adam.params()[0].var.clone();
    let mut gradients = Gradients::none(1);
    let loss = var.sqr().unwrap().sum_all().unwrap();
    gradients.add(adam.params(), loss.backward().unwrap(), &Recomputed::default()).unwrap();
    adam.step(gradients, 0.1, 1.0).unwrap();
}

fn state(step: usize) -> State {
    let mut identity = Fingerprint::default();
    identity.insert("cache", "c");
    State {
        format_version: FORMAT_VERSION,
        identity,
        stage: StageName::Distill,
        stage_step: step,
        step,
        num_updates: step as u64,
        num_skipped: 0,
        offsets: Offsets { metrics_bytes: 7, events_bytes: 9, skipped_bytes: 0 },
    }
}

fn values(adam: &AdamW) -> Vec<f32> {
    adam.params()[0].var.to_vec1().unwrap()
}

#[test]
fn the_newest_are_kept_and_the_newest_continues_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path(), 2);
    assert!(checkpoints.latest().unwrap().is_none());
    let mut adam = optimizer(&[1.0, -2.0]);
    for done in 1..=3 {
        step(&mut adam);
        checkpoints.save(&state(done), &adam, None).unwrap();
    }
    assert_eq!(checkpoints.steps().unwrap(), [2, 3]);
    let killed = dir.path().join("checkpoints/.step-9.partial");
    std::fs::create_dir(&killed).unwrap();
    checkpoints.save(&state(3), &adam, None).unwrap();
    assert!(!killed.exists(), "what was never whole is removed");
    Checkpoints::of(dir.path(), 1).prune().unwrap();
    assert_eq!(checkpoints.names().unwrap(), ["step-3"]);
    let checkpoint = checkpoints.latest().unwrap().unwrap();
    assert_eq!(checkpoint.state, state(3));
    let mut resumed = optimizer(&[0.0, 0.0]);
    checkpoint.restore(&mut resumed, None).unwrap();
    step(&mut adam);
    step(&mut resumed);
    assert_eq!(values(&adam), values(&resumed));
}

#[test]
fn what_was_left_half_written_is_not_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path(), 2);
    let target = dir.path().join("checkpoints/step-5");
    assert!(publish(&target, |_| bail!("disk full")).is_err());
    assert!(checkpoints.latest().unwrap().is_none());
    checkpoints.save(&state(5), &optimizer(&[1.0]), None).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [5]);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(dir.path(), 1);
    checkpoints.save(&state(1), &optimizer(&[1.0]), None).unwrap();
    let checkpoint = checkpoints.latest().unwrap().unwrap();
    let mut other = state(1).identity;
    checkpoint.check(&other).unwrap();
    other.insert("cache", "d");
    let message = checkpoint.check(&other).unwrap_err().to_string();
    assert!(message.contains("cache: expected c, got d") && message.contains("hint:"), "{message}");
    assert!(checkpoint.restore(&mut optimizer(&[1.0, 2.0]), None).is_err());
}
