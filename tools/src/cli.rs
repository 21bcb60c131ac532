// SPDX-License-Identifier: GPL-2.0
//! The command line: `xfrm-next [OPTIONS] OBJECT [COMMAND] [WORDS]`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use crate::args::Args;
use crate::command::{Command, COMMANDS};
use crate::error::{Error, Result, SUCCESS};
use crate::link::NamespaceLinks;
use crate::output::{Form, Output};

/// What the command line says.
enum Request<'a> {
    Help,
    HelpFor(&'static Command),
    Version,
    Batch(&'a str),
    Run(&'static Command, Form, Args<'a>),
}

/// Runs the command line and gives the exit status.
pub fn main(words: &[String]) -> u8 {
    let result = match parse(Args::new(words)) {
        Ok(request) => run(request, &mut io::stdout().lock()),
        Err(error) => Err(error),
    };
    match result {
        Ok(status) => status,
        Err(error) if error.is_broken_pipe() => SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.status()
        }
    }
}

fn run(request: Request<'_>, to: &mut dyn Write) -> Result<u8> {
    let text = match request {
        Request::Batch(file) => return batch(file, to),
        Request::Help => usage(),
        Request::HelpFor(command) => help(command),
        Request::Version => format!("xfrm-next {}\n", env!("CARGO_PKG_VERSION")),
        Request::Run(command, form, args) => {
            return (command.run)(args, &mut Output::new(form, to), &NamespaceLinks);
        }
    };
    to.write_all(text.as_bytes())
        .map_err(Error::system("Cannot write"))?;
    Ok(SUCCESS)
}

/// Runs the lines of a file, as `ip -batch` does: up to the first that fails.
fn batch(file: &str, to: &mut dyn Write) -> Result<u8> {
    let failed = |e| Error::system("Cannot read the batch")(e);
    let lines: Box<dyn BufRead> = match file {
        "-" => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(file).map_err(failed)?)),
    };
    for (number, line) in lines.lines().enumerate() {
        let line = line.map_err(failed)?;
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        let outcome = parse(Args::new(&words)).and_then(|request| match request {
            Request::Batch(_) => Err(Error::Usage("A batch can't hold a batch.".into())),
            request => run(request, to),
        });
        match outcome {
            Ok(SUCCESS) => {}
            stop => {
                eprintln!("Command failed {file}:{}", number + 1);
                return stop;
            }
        }
    }
    Ok(SUCCESS)
}

fn parse(mut args: Args<'_>) -> Result<Request<'_>> {
    let (mut json, mut pretty) = (false, false);
    let object = loop {
        match args.next() {
            None => return Ok(Request::Help),
            Some(word) if wants_help(word) => return Ok(Request::Help),
            Some("-V" | "-Version" | "--version") => return Ok(Request::Version),
            Some("-j" | "-json") => json = true,
            Some("-p" | "-pretty") => pretty = true,
            Some("-b" | "-batch") => {
                let missing =
                    || Error::Usage("Option \"-batch\" wants a file, - for stdin.".into());
                return args.next().map(Request::Batch).ok_or_else(missing);
            }
            Some(word) if word.starts_with('-') => {
                return Err(Error::Usage(format!(
                    "Option \"{word}\" is unknown, try \"xfrm-next -help\"."
                )));
            }
            Some(object) => break object,
        }
    };
    let form = match (json, pretty) {
        (false, _) => Form::Text,
        (true, false) => Form::Json,
        (true, true) => Form::PrettyJson,
    };
    match command(object, &mut args)? {
        Some(command) if args.peek().is_some_and(wants_help) => Ok(Request::HelpFor(command)),
        Some(command) => Ok(Request::Run(command, form, args)),
        None => Ok(Request::Help),
    }
}

/// Finds the command of an object; None if help is wanted.
fn command(object: &str, args: &mut Args<'_>) -> Result<Option<&'static Command>> {
    let commands: Vec<_> = COMMANDS.iter().filter(|c| c.object == object).collect();
    match commands.as_slice() {
        [] => Err(Error::Usage(format!(
            "Object \"{object}\" is unknown, try \"xfrm-next help\"."
        ))),
        [only] if only.verb.is_empty() => Ok(Some(only)),
        several => match args.next() {
            None => Ok(None),
            Some(word) if wants_help(word) => Ok(None),
            Some(verb) => match several.iter().find(|command| command.verb == verb) {
                Some(command) => Ok(Some(command)),
                None => Err(Error::Usage(format!(
                    "Command \"{verb}\" is unknown, try \"xfrm-next {object} help\"."
                ))),
            },
        },
    }
}

fn wants_help(word: &str) -> bool {
    matches!(word, "help" | "-h" | "-help" | "--help")
}

/// What one command reads and does.
fn help(command: &Command) -> String {
    let mut text = format!("Usage: xfrm-next [ OPTIONS ] {}", command.grammar);
    for line in command.about.lines() {
        text += &format!("        {line}\n");
    }
    text
}

fn usage() -> String {
    let mut text = String::new();
    for command in COMMANDS {
        text += &help(command);
        text += "\n";
    }
    text += "\
Usage: xfrm-next -b[atch] { FILE | - }
OPTIONS := { -j[son] | -p[retty] | -h[elp] | -V[ersion] }

Exit status: 0 success; 1 no socket, no permission to listen, or no answer
in time; 2 the kernel refused; 255 the command line is wrong.
\"probe\" has statuses of its own, see there.
";
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;

    fn outcome(line: &str) -> String {
        let words = words(line);
        match parse(Args::new(&words)) {
            Ok(Request::Help) => "help".into(),
            Ok(Request::HelpFor(command)) => {
                let words = format!("help for {} {}", command.object, command.verb);
                words.trim_end().into()
            }
            Ok(Request::Version) => "version".into(),
            Ok(Request::Batch(file)) => format!("batch {file}"),
            Ok(Request::Run(command, form, args)) => {
                format!(
                    "{} {} {form:?} {:?}",
                    command.object,
                    command.verb,
                    args.count()
                )
            }
            Err(error) => format!("{} {error}", error.status()),
        }
    }

    #[test]
    fn finds_commands() {
        assert_eq!(outcome("probe"), "probe  Text 0");
        assert_eq!(outcome("-p probe"), "probe  Text 0");
        assert_eq!(outcome("-j state migrate a b"), "state migrate Json 2");
        assert_eq!(
            outcome("-json -pretty monitor migrate"),
            "monitor migrate PrettyJson 0"
        );
    }

    #[test]
    fn helps() {
        for line in [
            "",
            "help",
            "-h",
            "-j -help",
            "state",
            "state help",
            "state --help",
        ] {
            assert_eq!(outcome(line), "help", "{line:?}");
        }
        assert_eq!(outcome("probe help"), "help for probe");
        for word in ["help", "--help", "-h", "-help"] {
            let line = format!("state migrate {word}");
            assert_eq!(outcome(&line), "help for state migrate");
        }
        assert_eq!(outcome("-V"), "version");
        assert!(usage().contains("state migrate"));
    }

    #[test]
    fn batches() {
        assert_eq!(outcome("-batch -"), "batch -");
        assert_eq!(outcome("-b file"), "batch file");
        assert_eq!(
            outcome("-b"),
            "255 Option \"-batch\" wants a file, - for stdin."
        );
    }

    #[test]
    fn refuses() {
        assert_eq!(
            outcome("frob"),
            "255 Object \"frob\" is unknown, try \"xfrm-next help\"."
        );
        assert_eq!(
            outcome("state frob"),
            "255 Command \"frob\" is unknown, try \"xfrm-next state help\"."
        );
        assert_eq!(
            outcome("-q probe"),
            "255 Option \"-q\" is unknown, try \"xfrm-next -help\"."
        );
    }
}
