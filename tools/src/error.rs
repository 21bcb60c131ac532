// SPDX-License-Identifier: GPL-2.0
//! What can go wrong, in iproute2's words and with its exit statuses.

use std::{fmt, io};

/// Exit status of success.
pub const SUCCESS: u8 = 0;
/// Exit status where this program could not do its part (no socket, no permission to listen).
pub const FAILURE: u8 = 1;
/// Exit status where the kernel refused a request.
pub const REFUSED: u8 = 2;
/// Exit status of a usage error, iproute2's `exit(-1)`.
pub const USAGE: u8 = 255;

/// An error that ends a command.
#[derive(Debug)]
pub enum Error {
    /// The words of the command line make no request; holds the whole line to print.
    Usage(String),
    /// The kernel refused, with its own text where it gave one.
    Kernel {
        /// The positive errno.
        errno: i32,
        /// The text of the extended acknowledgement.
        text: Option<String>,
    },
    /// A system call of this program failed.
    System {
        /// What was tried, as in "Cannot open netlink socket".
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// The result of everything that can end a command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A word that its keyword cannot take.
    pub fn invalid(argument: &str, why: &str) -> Self {
        Self::Usage(format!("Error: argument \"{argument}\" is wrong: {why}"))
    }

    /// A keyword that must be there and is not.
    pub fn missing(keyword: &str) -> Self {
        Self::Usage(format!("Error: argument \"{keyword}\" is required"))
    }

    /// A keyword that is there twice.
    pub fn duplicate(keyword: &str, second: &str) -> Self {
        Self::Usage(format!(
            "Error: duplicate \"{keyword}\": \"{second}\" is the second value."
        ))
    }

    /// A keyword without its value.
    pub fn incomplete() -> Self {
        Self::Usage("Command line is not complete. Try option \"help\"".into())
    }

    /// Makes a closure for `map_err()` on system calls.
    pub fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// Whether the reader of our output went away, which is no news to anybody.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit status that goes with the error.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Kernel { .. } => REFUSED,
            Self::System { .. } => FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(line) => f.write_str(line),
            Self::Kernel {
                text: Some(text), ..
            } => write!(f, "Error: {}", sentence(text)),
            Self::Kernel { errno, text: None } => {
                write!(f, "RTNETLINK answers: {}", strerror(*errno))
            }
            Self::System { what, source } => match source.raw_os_error() {
                Some(errno) => write!(f, "{what}: {}", strerror(errno)),
                None => write!(f, "{what}: {source}"),
            },
        }
    }
}

impl std::error::Error for Error {}

/// The C library's text of an errno, without the number Rust appends.
pub fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].into(),
        None => text,
    }
}

/// A kernel text with its full stop, which iproute2 adds where the kernel has none.
pub fn sentence(text: &str) -> String {
    if text.ends_with(['.', '\n']) {
        text.trim_end_matches('\n').into()
    } else {
        format!("{text}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(errno: i32, text: Option<&str>) -> Error {
        Error::Kernel {
            errno,
            text: text.map(String::from),
        }
    }

    #[test]
    fn speaks_like_iproute2() {
        let text = kernel(3, Some("Can not find state")).to_string();
        assert_eq!(text, "Error: Can not find state.");
        let text = kernel(3, None).to_string();
        assert_eq!(text, "RTNETLINK answers: No such process");
        let text = Error::invalid("xx", "SPI value is invalid").to_string();
        assert_eq!(
            text,
            "Error: argument \"xx\" is wrong: SPI value is invalid"
        );
        let text = Error::duplicate("spi", "2").to_string();
        assert_eq!(text, "Error: duplicate \"spi\": \"2\" is the second value.");
    }

    #[test]
    fn statuses() {
        assert_eq!(Error::incomplete().status(), 255);
        assert_eq!(kernel(1, None).status(), 2);
        let system = Error::system("Cannot open netlink socket");
        assert_eq!(system(io::Error::from_raw_os_error(1)).status(), 1);
    }

    #[test]
    fn one_full_stop() {
        assert_eq!(sentence("a"), "a.");
        assert_eq!(sentence("a."), "a.");
    }
}
