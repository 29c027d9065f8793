//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use super::*;

/// A moment of these values after one store and load, with the random bits of update 1.
fn through(states: OptimizerStates, order: Order, values: &[f32]) -> Vec<f32> {
    let mut moment = Moment::zeros(states, order, values.len());
    let tables = [Order::First.table(), Order::Second.table()];
    let mut out = vec![0.0; values.len()];
    for mut piece in moment.pieces(values.len().next_multiple_of(BLOCK)) {
        for (block, values) in values.chunks(BLOCK).enumerate() {
            piece.store(block, values, |i| random(1, block * BLOCK + i) as u16);
        }
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            piece.load(block, &tables, out);
        }
    }
    out
}

#[test]
fn codes_are_in_order_and_come_back_as_they_are() {
    for (order, positive) in [(Order::First, 128), (Order::Second, 256)] {
        let table = order.table();
        assert!(table[..positive].is_sorted_by(|a, b| a < b), "{order:?}");
        assert_eq!(table[positive - 1], order.largest());
        for (code, value) in table.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            // Nothing is cut off, so no random bits may carry.
            assert_eq!(order.code(*value, u16::MAX), code as u8, "{order:?} {value}");
        }
    }
}

#[test]
fn values_become_a_neighbour_and_on_average_themselves() {
    // One value in many places beside the one that sets the scale; neighbours are a step of its format apart.
    for (states, order, step) in [
        (OptimizerStates::F8, Order::First, 1.0 / 8.0),
        (OptimizerStates::F8, Order::Second, 1.0 / 16.0),
        (OptimizerStates::Bf16, Order::First, 1.0 / 128.0),
    ] {
        for x in [0.77f32, 0.013, 0.0021] {
            let mut values = vec![x; 64 * BLOCK];
            values.iter_mut().step_by(BLOCK).for_each(|value| *value = 1.0);
            let stored = through(states, order, &values);
            let kept =
                || stored.iter().zip(&values).filter(|(_, value)| **value == x).map(|(stored, _)| *stored);
            assert!(kept().all(|stored| (stored - x).abs() <= x * step), "{states:?} {order:?} {x}");
            let mean = kept().map(f64::from).sum::<f64>() / kept().count() as f64;
            // The standard deviation of one is at most half a step, of the mean of 16,320 a 255th of it; five of those.
            let allowed = f64::from(x * step) * 0.02;
            assert!((mean - f64::from(x)).abs() < allowed, "{states:?} {order:?} {x}: {mean}");
        }
    }
}

#[test]
fn a_second_moment_above_zero_stays_above() {
    let stored = through(OptimizerStates::F8, Order::Second, &[1.0, 1e-9, 0.0]);
    assert!(stored[1] > 0.0 && stored[2] == 0.0, "{stored:?}");
    assert_eq!(through(OptimizerStates::F8, Order::First, &[0.0; 5]), [0.0; 5]);
}

#[test]
fn what_a_checkpoint_keeps_comes_back() {
    let values: Vec<f32> = (0..300).map(|i| (i as f32 - 150.0) * 0.01).collect();
    for states in [OptimizerStates::F32, OptimizerStates::Bf16, OptimizerStates::F8] {
        let mut moment = Moment::zeros(states, Order::First, values.len());
        for piece in &mut moment.pieces(2 * BLOCK) {
            values.chunks(BLOCK).enumerate().for_each(|(block, values)| piece.store(block, values, |_| 7));
        }
        let shape = Shape::from((3, 100));
        let kept = moment.tensors(&shape).unwrap();
        let find = |ending: &str| Ok(kept.iter().find(|(name, _)| *name == ending).unwrap().1.clone());
        let mut again = Moment::zeros(states, Order::First, values.len());
        again.fill(&shape, find).unwrap();
        let bytes = |moment: &Moment| format!("{moment:?}");
        assert_eq!(bytes(&again), bytes(&moment), "{states:?}");
        assert!(again.fill(&Shape::from((100, 3)), find).is_err(), "another shape is refused");
    }
}
