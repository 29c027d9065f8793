//! Which feature row goes where in the Recalibrator's input, and which of its output rows is scored against what.
//!
//! A sample's sequence is its turns in order: question features (the student's, or the teacher's in the regularisation
//! pass) for everything that is not an answer, teacher features for each answer. What follows the last answer is left
//! out, as nothing after it is scored. Example of one turn, with the boundary scored:
//!
//! ```text
//! sequence   q0 q1 q2 | a0 a1 a2
//! output row       r2   r3 r4          one position before its target
//! target           a0   a1 a2
//! ```
//!
//! The first answer token is predicted at the last question position (the boundary), so its row sees the question
//! alone; without `score_boundary` it is not scored.

use std::ops::Range;

/// Whose features a run of rows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The student's, as they are.
    Student,
    /// The teacher's, through proj_pre.
    Teacher,
}

/// One sample's rows in the packed features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleTurns {
    /// All its rows in the packed question-side features: the student's, or the teacher's when regularising.
    pub tokens: Range<usize>,
    /// The rows among `tokens` that its answers fill, in turn order; teacher features take their place.
    pub filled: Vec<Range<usize>>,
    /// The rows of each answer in the packed teacher features; the row before each is the feature that predicts the
    /// answer's first token, the teacher's last question feature.
    pub answers: Vec<Range<usize>>,
    /// Each answer's first position in the teacher's own sequence; read only when positions are kept.
    pub answer_positions: Vec<u32>,
}

/// One sample whose answers are the student's rows as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleStarts {
    /// All its rows in the packed student features.
    pub tokens: Range<usize>,
    /// Answer tokens that begin at the same character: the student's row and the teacher's, in their packed features.
    pub starts: Vec<[usize; 2]>,
}

/// Consecutive rows of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose features they are.
    pub source: Source,
    /// Which rows of that source's packed features.
    pub rows: Range<usize>,
    /// Position of the first in its own sequence.
    pub position: u32,
}

/// The gather plan of a microbatch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Runs of all samples, in order.
    pub runs: Vec<Run>,
    /// Boundaries of the samples in the sequence: S+1 numbers.
    pub cu_seqlens: Vec<usize>,
    /// Rows of the sequence that are scored, N.
    pub scored: Vec<u32>,
    /// For each scored row, the packed teacher row whose token is the target, N.
    pub targets: Vec<u32>,
    /// For each scored row, the packed teacher row that predicts the same token (the target's row less one), N.
    pub teacher_rows: Vec<u32>,
}

impl Plan {
    /// Plans a microbatch; `questions` says whose features the questions are.
    pub fn new(samples: &[SampleTurns], questions: Source, score_boundary: bool) -> Plan {
        let mut plan = Plan { cu_seqlens: vec![0], ..Plan::default() };
        let mut length = 0;
        for sample in samples {
            let first = length;
            let mut next = sample.tokens.start;
            let answers = sample.filled.iter().zip(&sample.answers).zip(&sample.answer_positions);
            for ((filled, answer), &answer_position) in answers {
                let position = (next - sample.tokens.start) as u32;
                length += plan.push(questions, next..filled.start, position);
                next = filled.end;
                plan.score(answer, length, score_boundary && length > first);
                length += plan.push(Source::Teacher, answer.clone(), answer_position);
            }
            plan.cu_seqlens.push(length);
        }
        plan
    }

    /// Plans a microbatch in which the student's rows are the whole sequence; each start is scored.
    pub fn of_student(samples: &[SampleStarts]) -> Plan {
        let mut plan = Plan { cu_seqlens: vec![0], ..Plan::default() };
        let mut length = 0;
        for SampleStarts { tokens, starts } in samples {
            for [student, teacher] in starts {
                plan.scored.push((length + student - tokens.start - 1) as u32);
                plan.targets.push(*teacher as u32);
                plan.teacher_rows.push((teacher - 1) as u32);
            }
            length += plan.push(Source::Student, tokens.clone(), 0);
            plan.cu_seqlens.push(length);
        }
        plan
    }

    /// Adds a run; returns its length.
    fn push(&mut self, source: Source, rows: Range<usize>, position: u32) -> usize {
        let length = rows.len();
        if length > 0 {
            self.runs.push(Run { source, rows, position });
        }
        length
    }

    /// Scores an answer that begins at row `start` of the sequence.
    fn score(&mut self, answer: &Range<usize>, start: usize, boundary: bool) {
        for (i, target) in answer.clone().enumerate().skip(usize::from(!boundary)) {
            self.scored.push((start + i - 1) as u32);
            self.targets.push(target as u32);
            self.teacher_rows.push((target - 1) as u32);
        }
    }

    /// Number of scored tokens, N.
    pub fn num_scored(&self) -> usize {
        self.scored.len()
    }

    /// 0..n-1 in each sample.
    pub(super) fn new_positions(&self) -> Vec<u32> {
        self.cu_seqlens.windows(2).flat_map(|w| 0..(w[1] - w[0]) as u32).collect()
    }

    /// Each row's position in its own sequence.
    pub(super) fn old_positions(&self) -> Vec<u32> {
        self.runs.iter().flat_map(|run| run.position..run.position + run.rows.len() as u32).collect()
    }

    /// (teacher rows to project, the sequence as rows of \[student rows; projected rows\]).
    pub(super) fn gather(&self, student_rows: usize) -> (Vec<u32>, Vec<u32>) {
        let (mut teacher, mut order) = (Vec::new(), Vec::new());
        for run in &self.runs {
            for row in run.rows.clone() {
                match run.source {
                    Source::Student => order.push(row as u32),
                    Source::Teacher => {
                        order.push((student_rows + teacher.len()) as u32);
                        teacher.push(row as u32);
                    }
                }
            }
        }
        (teacher, order)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)] // a sample of one turn has one range

    use super::*;

    fn one_turn() -> SampleTurns {
        // Student: 4 question tokens, 2 answer tokens, 1 after. Teacher rows: boundary 10, answer 11..14.
        SampleTurns { tokens: 0..7, filled: vec![4..6], answers: vec![11..14], answer_positions: vec![9] }
    }

    fn two_turns() -> SampleTurns {
        SampleTurns {
            tokens: 7..17,
            filled: vec![9..12, 14..16],
            answers: vec![21..23, 24..25],
            answer_positions: vec![5, 12],
        }
    }

    #[test]
    fn one_turn_is_scored_from_the_boundary() {
        let plan = Plan::new(&[one_turn()], Source::Student, true);
        assert_eq!(plan.cu_seqlens, [0, 7]); // 4 questions + 3 answer tokens
        assert_eq!(plan.scored, [3, 4, 5]); // the last question row, a0, a1
        assert_eq!(plan.targets, [11, 12, 13]);
        assert_eq!(plan.teacher_rows, [10, 11, 12]);
        assert_eq!(plan.gather(7), (vec![11, 12, 13], vec![0, 1, 2, 3, 7, 8, 9]));
        assert_eq!(plan.new_positions(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(plan.old_positions(), [0, 1, 2, 3, 9, 10, 11]);
    }

    #[test]
    fn the_boundary_can_be_left_out() {
        let plan = Plan::new(&[one_turn()], Source::Student, false);
        assert_eq!((plan.scored, plan.targets, plan.teacher_rows), (vec![4, 5], vec![12, 13], vec![11, 12]));
    }

    #[test]
    fn two_turns_alternate_and_samples_are_packed() {
        let plan = Plan::new(&[one_turn(), two_turns()], Source::Student, true);
        // Second sample: 2 question tokens, 2 answer, 2 question, 1 answer.
        assert_eq!(plan.cu_seqlens, [0, 7, 14]);
        assert_eq!(plan.scored, [3, 4, 5, 8, 9, 12]);
        assert_eq!(plan.targets, [11, 12, 13, 21, 22, 24]);
        assert_eq!(plan.teacher_rows, [10, 11, 12, 20, 21, 23]);
        let (teacher, order) = plan.gather(17);
        assert_eq!(teacher, [11, 12, 13, 21, 22, 24]);
        assert_eq!(order[7..], [7, 8, 20, 21, 12, 13, 22]);
        assert_eq!(plan.old_positions()[7..], [0, 1, 5, 6, 5, 6, 12]);
        assert_eq!(plan.new_positions()[7..], [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn regularisation_takes_the_teacher_for_both() {
        let turns =
            SampleTurns { tokens: 3..9, filled: vec![6..8], answers: vec![6..8], answer_positions: vec![3] };
        let plan = Plan::new(&[turns], Source::Teacher, true);
        assert_eq!(plan.gather(0), (vec![3, 4, 5, 6, 7], vec![0, 1, 2, 3, 4]));
        assert_eq!((plan.scored, plan.teacher_rows), (vec![2, 3], vec![5, 6]));
    }

    #[test]
    fn the_students_answers_are_scored_where_both_begin_a_token() {
        // Rows 4..9 are the second sample's: its answer is 7..9, the teacher's 11..13; both begin at 7 and 11 alone.
        let first = SampleStarts { tokens: 0..4, starts: vec![[2, 5], [3, 7]] };
        let second = SampleStarts { tokens: 4..9, starts: vec![[7, 11]] };
        let plan = Plan::of_student(&[first, second]);
        assert_eq!(plan.gather(9), (vec![], (0..9).collect()));
        assert_eq!(plan.cu_seqlens, [0, 4, 9]);
        assert_eq!(
            (plan.scored, plan.targets, plan.teacher_rows),
            (vec![1, 2, 6], vec![5, 7, 11], vec![4, 6, 10])
        );
    }

    #[test]
    fn an_answer_without_a_question_has_no_boundary() {
        let turns =
            SampleTurns { tokens: 0..3, filled: vec![0..3], answers: vec![1..3], answer_positions: vec![0] };
        let plan = Plan::new(&[turns], Source::Student, true);
        assert_eq!((plan.scored, plan.targets), (vec![0], vec![2]));
    }
}
