// SPDX-License-Identifier: GPL-2.0
//! The `xfrm-next` program; see the library for what it does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = Vec::new();
    for word in std::env::args_os().skip(1) {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                eprintln!("Error: argument {word:?} is wrong: not UTF-8");
                return ExitCode::from(xfrm_next::error::USAGE);
            }
        }
    }
    ExitCode::from(xfrm_next::cli::main(&words))
}
