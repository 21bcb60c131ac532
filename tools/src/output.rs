// SPDX-License-Identifier: GPL-2.0
//! How results reach the reader: text, or JSON one value a line, or JSON for the eye.

use std::fmt::Display;
use std::io::Write;

use serde::Serialize;

use crate::error::{Error, Result};

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
    /// For people who like JSON.
    PrettyJson,
}

/// Where the output goes.
pub struct Output<'a> {
    form: Form,
    to: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    /// Writes in this form to this place.
    pub fn new(form: Form, to: &'a mut dyn Write) -> Self {
        Self { form, to }
    }

    /// Writes one result, if it has any text, and flushes, so that a pipe's reader sees each when it happens.
    pub fn put(&mut self, result: &(impl Display + Serialize)) -> Result<()> {
        let line = match self.form {
            Form::Text => Ok(result.to_string()),
            Form::Json => serde_json::to_string(result),
            Form::PrettyJson => serde_json::to_string_pretty(result),
        };
        line.map_err(Into::into)
            .and_then(|line| match line.as_str() {
                "" => Ok(()),
                line => writeln!(self.to, "{line}"),
            })
            .and_then(|()| self.to.flush())
            .map_err(Error::system("Cannot write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (form, expected) in [
            (Form::Text, "a\"b\n"),
            (Form::Json, "\"a\\\"b\"\n"),
            (Form::PrettyJson, "\"a\\\"b\"\n"),
        ] {
            let mut buffer = Vec::new();
            Output::new(form, &mut buffer).put(&"a\"b").unwrap();
            assert_eq!(String::from_utf8(buffer).unwrap(), expected);
        }
    }
}
