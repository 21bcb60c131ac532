// SPDX-License-Identifier: GPL-2.0
//! The words of a command line, read one after the other as iproute2's NEXT_ARG() does.

use crate::error::{Error, Result};
use crate::number;

/// The words that are still to be read.
#[derive(Clone, Debug)]
pub struct Args<'a> {
    words: &'a [String],
}

impl<'a> Args<'a> {
    /// Starts at the first word.
    pub fn new(words: &'a [String]) -> Self {
        Self { words }
    }

    /// The next word, which stays.
    pub fn peek(&self) -> Option<&'a str> {
        self.words.first().map(String::as_str)
    }

    /// Takes the next word if it is this keyword.
    pub fn accept(&mut self, keyword: &str) -> bool {
        let found = self.peek() == Some(keyword);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    /// Takes a word that must be there.
    pub fn value(&mut self) -> Result<&'a str> {
        self.next().ok_or_else(Error::incomplete)
    }

    /// Takes a 32-bit number that must be there; `why` is the complaint about any other word.
    pub fn u32(&mut self, why: &str) -> Result<u32> {
        let word = self.value()?;
        number::parse_u32(word).ok_or_else(|| Error::invalid(word, why))
    }

    /// Takes a 16-bit number that must be there.
    pub fn u16(&mut self, why: &str) -> Result<u16> {
        let word = self.value()?;
        number::parse_u16(word).ok_or_else(|| Error::invalid(word, why))
    }

    /// Ends the command line.
    pub fn end(&mut self) -> Result<()> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(Error::invalid(word, "unknown")),
        }
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }
}

/// A keyword's value, which may be given once.
#[derive(Debug)]
pub struct Once<T> {
    keyword: &'static str,
    value: Option<T>,
}

impl<T> Once<T> {
    /// Nothing yet for this keyword.
    pub fn new(keyword: &'static str) -> Self {
        Self {
            keyword,
            value: None,
        }
    }

    /// Reads the value with `read`, which starts behind the keyword.
    pub fn read<'a>(
        &mut self,
        args: &mut Args<'a>,
        read: impl FnOnce(&mut Args<'a>) -> Result<T>,
    ) -> Result<()> {
        if self.value.is_some() {
            return Err(Error::duplicate(
                self.keyword,
                args.peek().unwrap_or(self.keyword),
            ));
        }
        self.value = Some(read(args)?);
        Ok(())
    }

    /// The value, if any.
    pub fn optional(self) -> Option<T> {
        self.value
    }

    /// The value, which must be there.
    pub fn required(self) -> Result<T> {
        self.value.ok_or_else(|| Error::missing(self.keyword))
    }
}

#[cfg(test)]
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks() {
        let words = words("spi 0x10 junk");
        let mut args = Args::new(&words);
        assert!(!args.accept("mark"));
        assert!(args.accept("spi"));
        assert_eq!(args.u32("bad").unwrap(), 16);
        assert_eq!(
            args.end().unwrap_err().to_string(),
            "Error: argument \"junk\" is wrong: unknown"
        );
        assert!(args.value().is_err());
    }

    #[test]
    fn once_only() {
        let words = words("1 2");
        let mut args = Args::new(&words);
        let mut spi = Once::new("spi");
        spi.read(&mut args, |args| args.u32("bad")).unwrap();
        let error = spi.read(&mut args, |args| args.u32("bad")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Error: duplicate \"spi\": \"2\" is the second value."
        );
        assert_eq!(spi.required().unwrap(), 1);
        let error = Once::<u32>::new("spi").required().unwrap_err();
        assert_eq!(error.to_string(), "Error: argument \"spi\" is required");
    }
}
