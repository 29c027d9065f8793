//! The questions of a row: each answer to learn, asked with everything said before it.

use super::{ImageSource, Message, Part, Record};

/// One assistant turn that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Everything said before the answer, with the reference answers of earlier turns.
    pub messages: Vec<Message>,
    /// The images shown so far.
    pub images: Vec<ImageSource>,
    /// The answer that the row has, trimmed.
    pub reference: String,
}

impl Question {
    /// What the last turn asks, trimmed and without its images.
    pub fn text(&self) -> String {
        self.messages.last().map(Message::text).unwrap_or_default()
    }
}

impl Message {
    /// All that is said, trimmed and without the images.
    pub fn text(&self) -> String {
        let texts = self.content.iter().filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            Part::Image => None,
        });
        texts.collect::<String>().trim().to_owned()
    }
}

impl Record {
    /// One question for each answer to learn, in order.
    pub fn questions(&self) -> Vec<Question> {
        let answers = self.messages.iter().enumerate().filter(|(_, message)| message.is_learnt());
        let question = |(at, answer): (usize, &Message)| {
            let messages = self.messages[..at].to_vec();
            let parts = messages.iter().flat_map(|message| &message.content);
            let num_images = parts.filter(|part| **part == Part::Image).count();
            let images = self.images.iter().take(num_images).cloned().collect();
            Question { messages, images, reference: answer.text() }
        };
        answers.map(question).collect()
    }
}
