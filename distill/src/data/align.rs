//! Where two tokenizers cut the same text alike.
//!
//! ```text
//! text      T h e r e   a r e   t w o .
//! student   [There ][are ][two][.]  end
//! teacher   [The][re ][are t][wo.]  end
//! pieces    |There |     are two.  | end
//! ```
//!
//! A piece ends where a token of both ends and no later token of either begins before. Both texts are an answer in their
//! model's own template, which may put white space before it that the first token takes in, as LLaVA's and SmolVLM's do: they
//! are compared without it. As far as they are equal they are cut; when one token of each is left behind the last cut, both
//! are the template's end of a turn, and one piece.

use std::ops::Range;

/// The same piece of text as tokens of both models, counted within the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The student's tokens.
    pub student: Range<usize>,
    /// The teacher's tokens.
    pub teacher: Range<usize>,
}

/// One answer as one tokenizer cuts it.
#[derive(Clone, Copy, Debug)]
pub struct CutText<'a> {
    /// The whole prompt's text.
    pub text: &'a str,
    /// For each token of the answer, its half-open range of characters of `text`.
    pub offsets: &'a [(u32, u32)],
}

impl CutText<'_> {
    /// The answer's characters from the first that is no white space, and for each token that ends a character whole,
    /// (characters up to it, tokens up to it).
    fn cuts(&self) -> (Vec<char>, Vec<(usize, usize)>) {
        let (Some(first), Some(last)) = (self.offsets.first(), self.offsets.last()) else {
            return Default::default();
        };
        let answer = self.text.chars().take(last.1 as usize).skip(first.0 as usize);
        let start = first.0 + answer.clone().take_while(|character| character.is_whitespace()).count() as u32;
        let text = answer.skip((start - first.0) as usize).collect();
        let after = self.offsets.iter().skip(1).map(|next| next.0).chain([u32::MAX]);
        let ends = self.offsets.iter().zip(after).enumerate();
        let whole = ends.filter(|(_, (token, next))| token.1 <= *next && token.1 > start);
        (text, whole.map(|(i, (token, _))| ((token.1 - start) as usize, i + 1)).collect())
    }
}

/// The pieces of an answer, in order.
#[must_use]
pub fn pieces(student: CutText, teacher: CutText) -> Vec<Piece> {
    let ((our_text, ours), (their_text, theirs)) = (student.cuts(), teacher.cuts());
    let common = our_text.iter().zip(&their_text).take_while(|(a, b)| a == b).count();
    let mut pieces = Vec::new();
    let mut before = (0, 0);
    let mut theirs = theirs.into_iter().peekable();
    for (end, tokens) in ours.into_iter().take_while(|(end, _)| *end <= common) {
        while theirs.next_if(|cut| cut.0 < end).is_some() {}
        if let Some(cut) = theirs.next_if(|cut| cut.0 == end) {
            pieces.push(Piece { student: before.0..tokens, teacher: before.1..cut.1 });
            before = (tokens, cut.1);
        }
    }
    let (num_ours, num_theirs) = (student.offsets.len(), teacher.offsets.len());
    if !pieces.is_empty() && (num_ours - before.0, num_theirs - before.1) == (1, 1) {
        pieces.push(Piece { student: before.0..num_ours, teacher: before.1..num_theirs });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of tokens that stand one after the other from character `start` on.
    fn offsets(start: u32, tokens: &[&str]) -> Vec<(u32, u32)> {
        let mut end = start;
        let one = |token: &&str| {
            let begin = end;
            end += token.chars().count() as u32;
            (begin, end)
        };
        tokens.iter().map(one).collect()
    }

    /// Pieces as (student tokens, teacher tokens), from each side's prefix, answer tokens and end of turn.
    fn cut(ours: (&str, &[&str]), theirs: (&str, &[&str])) -> Vec<(Range<usize>, Range<usize>)> {
        let whole = |(prefix, tokens): (&str, &[&str])| format!("{prefix}{}\n", tokens.concat());
        let (our_text, their_text) = (whole(ours), whole(theirs));
        let side = |(prefix, tokens): (&str, &[&str])| offsets(prefix.chars().count() as u32, tokens);
        let (our_offsets, their_offsets) = (side(ours), side(theirs));
        let found = pieces(
            CutText { text: &our_text, offsets: &our_offsets },
            CutText { text: &their_text, offsets: &their_offsets },
        );
        found.into_iter().map(|piece| (piece.student, piece.teacher)).collect()
    }

    // Expected by hand, as in the diagram above.
    #[test]
    fn cuts_where_both_end() {
        let ours = ("user: hé\nassistant: ", ["There ", "are ", "two", ".", "<|im_end|>"].as_slice());
        let theirs = ("[INST]", ["The", "re ", "are t", "wo.", "<|im_end|>"].as_slice());
        assert_eq!(cut(ours, theirs), [(0..1, 0..2), (1..4, 2..4), (4..5, 4..5)]);
        assert_eq!(cut(ours, ours).len(), 5);
    }

    #[test]
    fn unlike_ends_of_turn_are_one_piece() {
        let ours = ("", ["It", " is", "<|im_end|>"].as_slice());
        assert_eq!(cut(ours, ("", &["It is", "</s>"])), [(0..2, 0..1), (2..3, 1..2)]);
        // Two tokens are left on one side: they are no single end of turn.
        assert_eq!(cut(ours, ("", &["It is", "</", "s>"])), [(0..2, 0..1)]);
    }

    // As SmolVLM's and LLaVA's templates: " There" is one token of the student, and the teacher's is "There".
    #[test]
    fn white_space_before_an_answer_is_the_templates() {
        let ours = ("Assistant:", [" There", " are", "<end_of_utterance>"].as_slice());
        let theirs = ("assistant\n", ["The", "re", " are", "<|im_end|>"].as_slice());
        assert_eq!(cut(ours, theirs), [(0..1, 0..2), (1..2, 2..3), (2..3, 3..4)]);
        // White space alone is no piece: it belongs to the first one.
        let ours = ("Assistant:", [" ", "There", " are", "<end_of_utterance>"].as_slice());
        assert_eq!(cut(ours, theirs), [(0..2, 0..2), (2..3, 2..3), (3..4, 3..4)]);
    }

    #[test]
    fn unlike_texts_have_no_piece() {
        assert_eq!(cut(("", &["Yes", "<e>"]), ("", &["No", "<e>"])), []);
        assert_eq!(cut(("", &[]), ("", &["No"])), []);
    }

    #[test]
    fn a_character_of_several_tokens_is_cut_after_the_last() {
        // Bytes of one character share its range.
        let text = "日a";
        let bytes = [(0, 1), (0, 1), (0, 1), (1, 2)];
        let whole = [(0, 1), (1, 2)];
        let found = pieces(CutText { text, offsets: &bytes }, CutText { text, offsets: &whole });
        let expected = [Piece { student: 0..3, teacher: 0..1 }, Piece { student: 3..4, teacher: 1..2 }];
        assert_eq!(found, expected);
    }
}
