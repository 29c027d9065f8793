//! Expected rows are counted by hand from the drawings in the module's head.
//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use shared::dataset::Role;
use shared::ids::SampleKey;
use shared::text::{Prompt, TurnSpan};

use super::*;

/// A sample whose student tokens are `100 * number + index` and whose turns are given as (question, answer) lengths;
/// the teacher has one more question token a turn and features of width 1 that equal the token's place.
fn sample(number: u32, turns: &[(usize, usize)], complete: bool) -> Arc<Sample> {
    let mut spans = Vec::new();
    let (mut answers, mut positions) = (Vec::new(), Vec::new());
    let (mut at, mut teacher_at) = (0, 0);
    for &(question, answer) in turns {
        let end = at + question + answer;
        spans.push(TurnSpan { role: Role::User, tokens: at..at + question, answer: None });
        let answer_span = at + question..end;
        spans.push(TurnSpan {
            role: Role::Assistant,
            tokens: answer_span.clone(),
            answer: Some(answer_span),
        });
        at = end;
        let start = teacher_at + question + 1;
        let first = if complete { teacher_at } else { start - 1 };
        positions.extend(first as u32..(start + answer) as u32);
        answers.push(start..start + answer);
        teacher_at = start + answer;
    }
    let ids = |base: u32, count: usize| (0..count as u32).map(|index| base + index).collect::<Vec<u32>>();
    let student = Encoded {
        prompt: Prompt {
            text: String::new(),
            input_ids: ids(100 * number, at),
            offsets: vec![(0, 0); at],
            turns: spans,
            images: Vec::new(),
        },
        images: Vec::new(),
        positions: vec![[0; 3]; at],
    };
    let features = positions.iter().map(|&position| position as f32).collect();
    let input_ids = ids(1000 * number, teacher_at);
    let pieces = vec![Vec::new(); answers.len()];
    let teacher = Some(TeacherSample { input_ids, answers, pieces, positions, width: 1, features });
    Arc::new(Sample { key: SampleKey::from_bytes([number as u8; 16]), student, teacher })
}

fn options(max_tokens: usize) -> BatchOptions {
    BatchOptions {
        alignment: true,
        student_answers: false,
        regularisation: true,
        pools_questions: false,
        answers: false,
        score_boundary: true,
        max_tokens,
        min_samples: 1,
    }
}

#[test]
fn the_row_before_an_answer_token_predicts_it() {
    let samples = [sample(1, &[(3, 2)], false), sample(2, &[(2, 1), (1, 2)], true)];
    let batch = microbatches(&samples, &options(1000)).unwrap().remove(0);
    // Student: answers at 3..5 of the first sample, 2..3 and 4..6 of the second, which starts at 5.
    assert_eq!(batch.student_scored.rows, [2, 3, 6, 8, 9]);
    assert_eq!(batch.student_scored.targets, [103, 104, 202, 204, 205]);
    let teacher = batch.teacher.unwrap();
    // Teacher: rows of the first sample are tokens 3..6 (boundary and answer), of the second all 0..8.
    assert_eq!(teacher.features, [3., 4., 5., 0., 1., 2., 3., 4., 5., 6., 7.]);
    assert_eq!(teacher.targets(&teacher.alignment), [1004, 1005, 2003, 2006, 2007]);
    let predicting: Vec<f32> =
        teacher.alignment.teacher_rows.iter().map(|&row| teacher.features[row as usize]).collect();
    assert_eq!(predicting, [3., 4., 2., 5., 6.]);
    // Joint sequences: 3 + 2 rows, then 2 + 1 + 1 + 2; scored rows are one before each answer row.
    assert_eq!(teacher.alignment.cu_seqlens, [0, 5, 11]);
    assert_eq!(teacher.alignment.scored, [2, 3, 6, 8, 9]);
    // A2 has the second sample alone, the one with all features: 3 + 1 + 2 + 2 rows.
    assert_eq!(teacher.regularisation.cu_seqlens, [0, 8]);
    assert_eq!(teacher.targets(&teacher.regularisation), [2003, 2006, 2007]);
}

#[test]
fn pooled_questions_are_their_mean_and_their_last_row() {
    let samples = [sample(1, &[(3, 2)], false), sample(2, &[(2, 1), (1, 2)], true)];
    let options = BatchOptions { pools_questions: true, ..options(1000) };
    let teacher = microbatches(&samples, &options).unwrap().remove(0).teacher.unwrap();
    // Behind the rows as they are: the second sample's questions are tokens 0..3 and 4..6, its answers 3 and 6..8.
    assert_eq!(teacher.features[11..], [0.5, 2., 3., 4., 5., 6., 7.]);
    assert_eq!(teacher.regularisation.cu_seqlens, [0, 7]);
    assert_eq!(teacher.regularisation.scored, [1, 4, 5]);
    assert_eq!(teacher.targets(&teacher.regularisation), [2003, 2006, 2007]);
    let predicting = teacher.regularisation.teacher_rows.iter().map(|&row| teacher.features[row as usize]);
    assert_eq!(predicting.collect::<Vec<_>>(), [2., 5., 6.]);
    // A1 is as it was.
    assert_eq!(teacher.targets(&teacher.alignment), [1004, 1005, 2003, 2006, 2007]);
}

#[test]
fn shuffled_questions_come_from_the_next_sample() {
    let samples = [sample(1, &[(3, 2)], false), sample(2, &[(2, 1), (1, 2)], false)];
    let batch = microbatches(&samples, &options(1000)).unwrap().remove(0);
    let rows = batch.teacher.unwrap().shuffled;
    // First sample's question 0..3 takes the second's first question, rows 5..7, ends aligned, repeated at the front.
    assert_eq!(rows[..3], [6, 5, 6]);
    // Second sample's questions (5..7 and 8..9) take the end of the first sample's only question.
    assert_eq!((&rows[5..7], rows[8]), (&[1, 2][..], 2));
    // Answers stay.
    assert_eq!(rows[3..5], [3, 4]);
}

#[test]
fn microbatches_are_cut_by_tokens_in_order() {
    // 5 student tokens and 3 teacher rows each.
    let samples: Vec<_> = (1..=4).map(|number| sample(number, &[(3, 2)], false)).collect();
    let sizes = |max_tokens| -> Vec<usize> {
        let cut = microbatches(&samples, &options(max_tokens)).unwrap();
        cut.iter().map(|batch| batch.keys.len()).collect()
    };
    assert_eq!(sizes(1000), [4]);
    assert_eq!(sizes(16), [2, 2]);
    assert_eq!(sizes(1), [1, 1, 1, 1]);
    // With at least two samples each, an odd one joins the last pair.
    let pairs = BatchOptions { min_samples: 2, ..options(1) };
    let cut = microbatches(&samples[..3], &pairs).unwrap();
    assert_eq!(cut.iter().map(|batch| batch.keys.len()).collect::<Vec<_>>(), [3]);
}

#[test]
fn answers_stand_side_by_side() {
    let samples = [sample(1, &[(3, 2)], false), sample(2, &[(2, 1), (1, 2)], true)];
    let options = BatchOptions { alignment: false, regularisation: false, answers: true, ..options(1000) };
    let batch = microbatches(&samples, &options).unwrap().remove(0);
    let teacher = batch.teacher.unwrap();
    // Teacher rows: 4 5 6 (from the one before the answer) of the first sample; 0..8 of the second, answers at 3 and 6..8.
    assert_eq!(teacher.scored.rows, [0, 1, 5, 8, 9]);
    let tokens: Vec<u32> = teacher.scored.targets.clone();
    assert_eq!(tokens, [1004, 1005, 2003, 2006, 2007]);
    let pairs: Vec<_> =
        teacher.answers.iter().map(|a| (a.sample, a.student.clone(), a.teacher.clone())).collect();
    assert_eq!(pairs, [(0, 0..2, 0..2), (1, 2..3, 2..3), (1, 3..5, 3..5)]);
    assert_eq!(batch.student_scored.targets.len(), 5);
}

#[test]
fn the_students_own_answers_are_scored_where_both_begin_a_token() {
    let mut first = sample(1, &[(3, 3)], false);
    let teacher = Arc::get_mut(&mut first).unwrap().teacher.as_mut().unwrap();
    // Two tokens of the student's are the teacher's first, then one is the other two.
    teacher.pieces =
        vec![vec![Piece { student: 0..2, teacher: 0..1 }, Piece { student: 2..3, teacher: 1..3 }]];
    let samples = [first, sample(2, &[(2, 1)], false)];
    let options = BatchOptions { student_answers: true, ..options(1000) };
    let teacher = microbatches(&samples, &options).unwrap().remove(0).teacher.unwrap();
    // The student's answer is 3..6; the teacher's tokens 3..7 are rows 0..4, its answer rows 1..4. All student rows go in.
    let plan = &teacher.alignment;
    assert_eq!((&plan.scored[..], &plan.teacher_rows[..]), (&[2, 4][..], &[0, 1][..]));
    assert_eq!(teacher.targets(plan), [1004, 1005]);
    assert_eq!(plan.cu_seqlens, [0, 6, 9]);
    let late = BatchOptions { score_boundary: false, ..options };
    let teacher = microbatches(&samples, &late).unwrap().remove(0).teacher.unwrap();
    assert_eq!(teacher.alignment.scored, [4]);
}
